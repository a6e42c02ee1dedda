"""The worst soft label near the assumed one, DPO-PRO (Kim et al., 2025, arXiv 2509.02709; a chi-square ball round p).

    L^ = max_q  q L(+) + (1 - q) L(-),   |q - p| <= sqrt(rho p (1 - p)),  0 <= q <= 1,  p = 1 - eps

The maximum is at an end of the interval: smoothing at whichever of the two rates is worse for this pair. It adds about
sqrt(rho p (1 - p)) |L(-) - L(+)| to label smoothing, a price on confidence. rho = 0 is label smoothing.
"""

from math import sqrt

import torch
from torch import Tensor

from prefopt.batch import Pairs
from prefopt.errors import PrefoptError
from prefopt.methods.pairwise.base import Robustifier
from prefopt.methods.pairwise.robust.rate import flip_rate


class SoftLabel(Robustifier):
    """Args: epsilon: assumed flip rate in [0, 0.5). rho: size of the ball, >= 0."""

    weighs = True

    def __init__(self, *, epsilon: float = 0.1, rho: float = 0.1) -> None:
        super().__init__()
        if not 0 <= rho < float("inf"):
            raise PrefoptError(f"method.robust.rho={rho} is not in [0, inf)", "use 0.1; 0 is label smoothing")
        p = 1 - flip_rate(epsilon)
        radius = sqrt(rho * p * (1 - p))
        self.ends = (max(p - radius, 0.0), min(p + radius, 1.0))

    def forward(self, right: Tensor, flipped: Tensor, batch: Pairs) -> Tensor:
        low, high = (q * right + (1 - q) * flipped for q in self.ends)
        return torch.maximum(low, high)
