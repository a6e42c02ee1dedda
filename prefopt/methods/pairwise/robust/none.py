"""No robustness: the recorded label is taken at its word."""

from torch import Tensor

from prefopt.batch import Pairs
from prefopt.methods.pairwise.base import Robustifier


class Plain(Robustifier):
    """L(+)."""

    def forward(self, right: Tensor, flipped: Tensor, batch: Pairs) -> Tensor:
        return right
