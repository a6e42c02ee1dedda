"""Chi-squared preference optimisation (Huang et al., 2024, arXiv 2407.13399).

    L = -log sigmoid( clip_2R( beta [ phi(u_w) - phi(u_l) ] ) ),   phi(u) = u + log u,   u = pi/ref of a response

DPO with a link that also pays for chi-squared divergence: rewards of responses that the reference hardly covers are
believed less. clip_2R keeps within [-2R, 2R]. Log-probs are sums over tokens.
"""

from torch import Tensor

from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.objectives.exponential import expm1
from prefopt.methods.pairwise.pair import Pair


class ChiPO(DPO):
    """Args: beta as in DPO. bound: R, the largest reward, in log-odds."""

    def __init__(self, *, beta: float = 0.1, bound: float = 10.0) -> None:
        super().__init__(beta=beta)
        self.bound, self.price = bound, None

    def z(self, pair: Pair) -> Tensor:
        z = self.beta * (_phi(pair.w.ratio) - _phi(pair.l.ratio))
        return z.clamp(-2 * self.bound, 2 * self.bound)

    def reward(self, logps: Tensor, reference: Tensor | None, length: Tensor) -> Tensor:
        assert reference is not None
        return self.beta * _phi((logps - reference).sum(-1))


def _phi(ratio: Tensor) -> Tensor:
    return expm1(ratio) + 1 + ratio
