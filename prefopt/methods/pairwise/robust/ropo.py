"""The loss of robust preference optimisation, ROPO (Liang et al., ICML 2025, arXiv 2404.04102).

    L^ = 4a/(1 + a)^2 [ -log p + a (1 - p) ],   p = sigmoid(u),  u = L(-) - L(+)

Influence -dL^/du = 4a/(1 + a)^2 (1 - p)(1 + a p): at most 1, where p = (a - 1)/(2 a), and down to 4a/(1 + a)^2 for
pairs that are contradicted most. The paper's rounds of filtering and refilling are not part of it.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.batch import Pairs
from prefopt.errors import PrefoptError
from prefopt.methods.pairwise.base import Robustifier


class ROPO(Robustifier):
    """Args: alpha: a > 2, how much of the loss is the bounded part."""

    weighs = True

    def __init__(self, *, alpha: float = 14.0) -> None:
        super().__init__()
        if not 2 < alpha < float("inf"):
            raise PrefoptError(f"method.robust.alpha={alpha} is not in (2, inf)", "the paper takes 14")
        self.alpha = alpha

    def forward(self, right: Tensor, flipped: Tensor, batch: Pairs) -> Tensor:
        u, a = flipped - right, self.alpha
        return 4 * a / (1 + a) ** 2 * (a * (-u).sigmoid() - logsigmoid(u))

    def trust(self, right: Tensor, flipped: Tensor, batch: Pairs) -> Tensor:
        """[B] p."""
        return (flipped - right).sigmoid()
