"""DPO under an f-divergence to the reference (Wang et al., 2023, arXiv 2309.16240).

    L = -log sigmoid( beta [ f'(u_w) - f'(u_l) ] ),   u = pi/ref of a response

    reverse_kl  f'(u) = log u  (DPO)        js     f'(u) = log 2u/(1 + u)
    forward_kl  f'(u) = 1 - 1/u             alpha  f'(u) = (u^(alpha - 1) - 1)/(alpha - 1)

each up to a constant. alpha is between the KLs: 0 is forward_kl, 1 reverse_kl. Log-probs are sums over tokens.
"""

from math import log

from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.errors import PrefoptError
from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.objectives.exponential import expm1
from prefopt.methods.pairwise.pair import Pair

ALPHAS = {"reverse_kl": 1.0, "forward_kl": 0.0}


class FDPO(DPO):
    """Args: beta as in DPO. divergence: reverse_kl, forward_kl, js or alpha. alpha: of the last one.

    Raises PrefoptError for another divergence.
    """

    def __init__(self, *, beta: float = 0.1, divergence: str = "js", alpha: float = 0.5) -> None:
        super().__init__(beta=beta)
        if divergence not in {*ALPHAS, "js", "alpha"}:
            raise PrefoptError(
                f"method.objective.divergence={divergence} is unknown", "choose reverse_kl, forward_kl, js or alpha"
            )
        self.js, self.power = divergence == "js", ALPHAS.get(divergence, alpha) - 1
        self.price = beta if not self.js and self.power == 0 else None

    def z(self, pair: Pair) -> Tensor:
        return self.beta * (self._slope(pair.w.ratio) - self._slope(pair.l.ratio))

    def reward(self, logps: Tensor, reference: Tensor | None, length: Tensor) -> Tensor:
        assert reference is not None
        return self.beta * self._slope((logps - reference).sum(-1))

    def _slope(self, ratio: Tensor) -> Tensor:
        """f'(u) from log u."""
        if self.js:
            return log(2) + logsigmoid(ratio)
        return expm1(self.power * ratio) / self.power if self.power else ratio
