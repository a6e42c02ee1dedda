"""An ensemble of reward models, for a conservative judge (Coste, Anwar, Kirk and Krueger, 2024, arXiv 2310.02743).

    L = sum_i L_BT(r_i),   i = 1 .. k: the same pairs, another head and another order for each

    mean: (1/k) sum_i r_i     WCO: min_i r_i     UWO: mean_i r_i - lam Var_i r_i

Where the pairs pin a reward down the members agree, elsewhere they differ; whoever optimises against them chooses how
they are made one (`method/aggregate`), after each was standardised over what the reference policy answers.
"""

from prefopt.methods.reward.several import Several


class RewardEnsemble(Several):
    """Args: as in `Several`."""
