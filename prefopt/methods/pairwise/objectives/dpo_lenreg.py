"""DPO with length regularisation, R-DPO (Park et al., 2024, arXiv 2403.19159); not robust DPO, which is `rdpo`.

    L = -log sigmoid( z + alpha (|y_w| - |y_l|) ),   z as in DPO

A longer winner has to win by less: the policy maximises r - alpha |y|, so the reward that it implies is
r = beta log pi/ref + alpha |y|. Log-probs are sums over tokens.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.pair import Pair


class DPOLengthRegularised(DPO):
    """Args: beta as in DPO. alpha: reward that a token costs."""

    def __init__(self, *, beta: float = 0.1, alpha: float = 0.01) -> None:
        super().__init__(beta=beta)
        self.alpha = alpha

    def preference(self, pair: Pair) -> Tensor:
        return -logsigmoid(self.z(pair) + self.alpha * (pair.w.length - pair.l.length))

    def reward(self, logps: Tensor, reference: Tensor | None, length: Tensor) -> Tensor:
        return super().reward(logps, reference, length) + self.alpha * length
