"""No robustness: the recorded label is taken at its word."""

from torch import Tensor

from prefopt.methods.pairwise.base import Robustifier


class Plain(Robustifier):
    """L(+)."""

    def __call__(self, right: Tensor, flipped: Tensor) -> Tensor:
        return right
