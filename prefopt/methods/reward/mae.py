"""The mean absolute error of a choice (Ghosh, Kumar and Sastry, AAAI 2017, arXiv 1712.09482).

    L = | softmax(f) - e_y |_1 = 2 (1 - softmax(f)_y)

Symmetric: its sum over y is 2 (K - 1) whatever f, so labels that go wrong uniformly do not move its minimiser. Where
softmax(f)_y is small so is its gradient: it learns slowly.
"""

from torch import Tensor

from prefopt.batch import Choices
from prefopt.methods.metrics import Metrics
from prefopt.methods.reward.choice import Choice, chosen, reported


class MAE(Choice):
    """f: the K rewards."""

    def loss(self, batch: Choices) -> tuple[Tensor, Metrics]:
        f = self.reward.score(batch)
        return 2 * (1 - chosen(f.softmax(1), batch.label)), reported(f, batch.label)
