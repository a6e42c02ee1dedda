"""The unbiased loss under label flips, robust DPO where the objective is DPO
(Ray Chowdhury, Kini and Natarajan, ICML 2024, arXiv 2403.00409).

    L^ = [ (1 - eps) L(+) - eps L(-) ] / (1 - 2 eps),     E_flip[ L^ ] = L of the true label

For DPO, L(-) = L(+) + z, so L^ = L(+) - eps/(1 - 2 eps) z: unbounded below and often negative.
"""

from torch import Tensor

from prefopt.batch import Pairs
from prefopt.methods.pairwise.base import Robustifier
from prefopt.methods.pairwise.robust.rate import flip_rate


class Unbiased(Robustifier):
    """Args: epsilon: assumed flip rate in [0, 0.5); at 0.5 a label says nothing and the correction is infinite."""

    def __init__(self, *, epsilon: float = 0.1) -> None:
        super().__init__()
        self.epsilon = flip_rate(epsilon)

    def forward(self, right: Tensor, flipped: Tensor, batch: Pairs) -> Tensor:
        return right - self.epsilon / (1 - 2 * self.epsilon) * (flipped - right)
