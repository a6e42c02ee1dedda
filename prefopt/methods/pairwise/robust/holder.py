"""The loss of Hölder-DPO (Fujisawa, Adachi and Osborne, NeurIPS 2025, arXiv 2505.17859).

    L^ = g p^(1 + g) - (1 + g) p^g,   p = sigmoid(u),  u = L(-) - L(+)

Influence -dL^/du = g (1 + g) p^g (1 - p)^2: redescending, it vanishes for pairs that are contradicted most, as for
those that are fitted best.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.batch import Pairs
from prefopt.errors import PrefoptError
from prefopt.methods.pairwise.base import Robustifier


class Holder(Robustifier):
    """Args: gamma: g > 0, the larger the less a contradicted pair counts."""

    weighs = True

    def __init__(self, *, gamma: float = 2.0) -> None:
        super().__init__()
        if not 0 < gamma < float("inf"):
            raise PrefoptError(f"method.robust.gamma={gamma} is not in (0, inf)", "the paper takes 2")
        self.gamma = gamma

    def forward(self, right: Tensor, flipped: Tensor, batch: Pairs) -> Tensor:
        log_p, g = logsigmoid(flipped - right), self.gamma
        return g * ((1 + g) * log_p).exp() - (1 + g) * (g * log_p).exp()

    def trust(self, right: Tensor, flipped: Tensor, batch: Pairs) -> Tensor:
        """[B] p: the paper takes the pairs of lowest p for mislabelled."""
        return (flipped - right).sigmoid()
