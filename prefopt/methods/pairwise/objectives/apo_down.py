"""Anchored preference optimisation, down (D'Oosterlinck et al., 2024, arXiv 2408.06266).

    L = sigmoid(c) + 1 - sigmoid(c - r)

c and r: implied rewards beta log pi/ref of winner and loser, log-probs summed over tokens. Both likelihoods go down,
the loser's further: for winners that are worse than what the policy says. Off-policy it runs away from the reference.
"""

from torch import Tensor

from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.pair import Pair


class APODown(DPO):
    """Args: beta as in DPO."""

    def preference(self, pair: Pair) -> Tensor:
        c, _ = self.rewards(pair)
        return c.sigmoid() + (-self.z(pair)).sigmoid()
