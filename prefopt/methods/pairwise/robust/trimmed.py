"""Small losses only: the share eps of a batch with the largest losses is left out, as probably mislabelled (Shen and
Sanghavi, ICML 2019, arXiv 1810.11874; small-loss selection of Han et al., NeurIPS 2018, arXiv 1804.06872).

    L^ = mean of the B - floor(eps B) smallest L(+) of a batch of B

Influence: that of L(+), times B over the number kept, or none. Pairs that tie with the last one kept are kept too.
"""

from torch import Tensor

from prefopt.batch import Pairs
from prefopt.methods.pairwise.base import Robustifier
from prefopt.methods.pairwise.robust.rate import flip_rate


class Trimmed(Robustifier):
    """Args: epsilon: share left out, in [0, 0.5)."""

    weighs = True
    coupled = True

    def __init__(self, *, epsilon: float = 0.1) -> None:
        super().__init__()
        self.epsilon = flip_rate(epsilon)

    def forward(self, right: Tensor, flipped: Tensor, batch: Pairs) -> Tensor:
        kept = self.trust(right, flipped, batch)
        return kept * right * (len(right) / kept.sum())

    def trust(self, right: Tensor, flipped: Tensor, batch: Pairs) -> Tensor:
        """[B] 1 for pairs that are kept, 0 for the others."""
        kept = len(right) - int(self.epsilon * len(right) + 1e-9)
        return (right <= right.detach().sort().values[kept - 1]).to(right.dtype)
