"""Winsorised losses: the upper tail of a batch is capped softly, so that no pair dominates a step. After wDPO (Liu et
al., 2026, arXiv 2603.07211), of which only the abstract was at hand: its shape and place are our reading, and its
correction of strongly contradicted labels is left out.

    L^ = c + log(1 + L(+) - c) where L(+) > c, else L(+);   c the (1 - tail) quantile of the batch's L(+), a constant

Influence: that of L(+), divided by 1 + L(+) - c beyond c.
"""

from torch import Tensor

from prefopt.batch import Pairs
from prefopt.errors import PrefoptError
from prefopt.methods.pairwise.base import Robustifier


class Winsorised(Robustifier):
    """Args: tail: share of a batch that is capped, in [0, 1)."""

    weighs = True
    coupled = True

    def __init__(self, *, tail: float = 0.1) -> None:
        super().__init__()
        if not 0 <= tail < 1:
            raise PrefoptError(f"method.robust.tail={tail} is outside [0, 1)", "0.1 caps the highest tenth of a batch")
        self.tail = tail

    def forward(self, right: Tensor, flipped: Tensor, batch: Pairs) -> Tensor:
        over = self._over(right)
        return right - over + over.log1p()

    def _over(self, right: Tensor) -> Tensor:
        """[B] nats beyond the cap."""
        losses = right.detach()
        cap = losses.double().quantile(1 - self.tail).to(losses.dtype)
        return (right - cap).clamp(min=0)
