"""Noise contrastive alignment on pairs (Chen et al., 2024, arXiv 2402.05369).

    L = -log sigmoid(c) - 1/2 log sigmoid(-c) - 1/2 log sigmoid(-r)

c and r: implied rewards beta log pi/ref of winner and loser, log-probs summed over tokens. Pointwise: the likelihood of
the winner itself must not fall. The paper has beta 0.01.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.pair import Pair


class NCA(DPO):
    """Args: beta as in DPO."""

    def preference(self, pair: Pair) -> Tensor:
        c, r = self.rewards(pair)
        return -logsigmoid(c) - (logsigmoid(-c) + logsigmoid(-r)) / 2
