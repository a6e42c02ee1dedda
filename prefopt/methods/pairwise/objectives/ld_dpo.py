"""Length-desensitised DPO (Liu et al., 2024, arXiv 2409.06411).

    L = -log sigmoid( beta (h_w - h_l) ),   h = sum_{t <= n} rho_t + alpha sum_{t > n} rho_t,   n = min(|y_w|, |y_l|)

rho_t: log pi/ref of token t. What a response says beyond the length of the other counts alpha; alpha = 1 is DPO.
"""

import torch
from torch import Tensor

from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.pair import Pair, Side


class LDDPO(DPO):
    """Args: beta as in DPO. alpha: weight of the tokens beyond the shared length, in [0, 1]."""

    def __init__(self, *, beta: float = 0.1, alpha: float = 0.5) -> None:
        super().__init__(beta=beta)
        self.alpha = alpha

    def z(self, pair: Pair) -> Tensor:
        shared = torch.minimum(pair.w.length, pair.l.length)
        return self.beta * (self._weighted(pair.w, shared) - self._weighted(pair.l, shared))

    def _weighted(self, side: Side, shared: Tensor) -> Tensor:
        assert side.reference is not None
        rho = side.logps - side.reference
        beyond = torch.arange(rho.shape[-1], device=rho.device) >= shared[:, None]
        return torch.where(beyond, self.alpha * rho, rho).sum(-1)
