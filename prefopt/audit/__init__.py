"""How many of a dataset's recorded preferences are flipped, and which.

Everything is read off one number a pair, the margin that a model which has not seen the pair's label gives to the
response that was recorded as preferred. Three estimators make a flip rate of the margins, each under its own
assumption; the first, of maximum likelihood, is the headline.
"""
