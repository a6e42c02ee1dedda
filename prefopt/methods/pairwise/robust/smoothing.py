"""Label smoothing, conservative DPO where the objective is DPO (Mitchell, 2023, a note on DPO with noisy preferences).

(1 - eps) L(+) + eps L(-)
"""

from torch import Tensor

from prefopt.batch import Pairs
from prefopt.methods.pairwise.base import Robustifier
from prefopt.methods.pairwise.robust.rate import flip_rate


class Smoothing(Robustifier):
    """Args: epsilon: assumed flip rate in [0, 0.5)."""

    def __init__(self, *, epsilon: float = 0.1) -> None:
        super().__init__()
        self.epsilon = flip_rate(epsilon)

    def forward(self, right: Tensor, flipped: Tensor, batch: Pairs) -> Tensor:
        return (1 - self.epsilon) * right + self.epsilon * flipped
