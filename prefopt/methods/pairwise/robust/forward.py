"""Forward correction: the likelihood of the label as it was recorded, flips included (Patrini et al., CVPR 2017, arXiv
1609.03683, carried to preferences). The biased, bounded cousin of the unbiased loss; both have the same minimiser.

    L^ = -log[ (1 - eps) p + eps (1 - p) ],   p = sigmoid(u),  u = L(-) - L(+)

Influence -dL^/du = (1 - 2 eps) p (1 - p) / [ (1 - eps) p + eps (1 - p) ]: redescending, and DPO's at eps = 0.
"""

from math import log

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.batch import Pairs
from prefopt.methods.pairwise.base import Robustifier
from prefopt.methods.pairwise.robust.rate import flip_rate


class Forward(Robustifier):
    """Args: epsilon: assumed flip rate in [0, 0.5)."""

    weighs = True

    def __init__(self, *, epsilon: float = 0.1) -> None:
        super().__init__()
        self.right = log(1 - flip_rate(epsilon))
        self.flipped = log(epsilon) if epsilon else float("-inf")

    def forward(self, right: Tensor, flipped: Tensor, batch: Pairs) -> Tensor:
        u = flipped - right
        return -torch.logaddexp(self.right + logsigmoid(u), self.flipped + logsigmoid(-u))

    def trust(self, right: Tensor, flipped: Tensor, batch: Pairs) -> Tensor:
        """[B] posterior probability that the label was not flipped."""
        return (flipped - right + (self.right - self.flipped)).sigmoid()
