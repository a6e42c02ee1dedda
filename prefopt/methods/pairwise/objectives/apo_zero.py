"""Anchored preference optimisation, zero (D'Oosterlinck et al., 2024, arXiv 2408.06266).

    L = 1 - sigmoid(c) + sigmoid(r)

c and r: implied rewards beta log pi/ref of winner and loser, log-probs summed over tokens. The winner's likelihood goes
up and the loser's down: for winners that are better than what the policy says. Bounded, and L(+) + L(-) = 2.
"""

from torch import Tensor

from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.pair import Pair


class APOZero(DPO):
    """Args: beta as in DPO."""

    def preference(self, pair: Pair) -> Tensor:
        c, r = self.rewards(pair)
        return (-c).sigmoid() + r.sigmoid()
