"""The hinge on implied rewards: SLiC-DPO, the loss of RSO (Liu et al., 2023, arXiv 2309.06657).

    L = max(0, 1 - z),   z as in DPO

Log-probs are sums over tokens. A pair whose margin is 1 or more no longer counts.
"""

from torch import Tensor
from torch.nn.functional import relu

from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.pair import Pair


class Hinge(DPO):
    """Args: beta as in DPO."""

    def preference(self, pair: Pair) -> Tensor:
        return relu(1 - self.z(pair))
