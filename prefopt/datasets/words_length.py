"""A world of words in which length is no merit, and annotators who like it."""

from collections.abc import Mapping
from functools import partial
from statistics import fmean

from prefopt.datasets.words import Gold, Words


def mean(prompt: str, response: str, values: Mapping[str, float]) -> float:
    """What a word of `response` is worth on average, and 0 of nothing; what is no word is worth nothing."""
    return fmean(values.get(word, 0.0) for word in response.split()) if response.split() else 0.0


class WordsLength(Words):
    """conf/dataset/words_length.yaml: the world of `Words`, with a quality that is free of length,

        r(x, y) = 1/|y| sum_t v(y_t)

    while labels are Bradley-Terry on r / temperature + length_bias |y|. Its arguments are those of `Words`.
    """

    def gold(self) -> Gold:
        return partial(mean, values=self.values)
