"""Contrastive preference optimisation (Xu et al., 2024, arXiv 2401.08417).

    L = -log sigmoid( beta [ log pi(y_w) - log pi(y_l) ] )  -  alpha log pi(y_w)

DPO with a uniform reference. Log-probs of the first term are sums over tokens; those of the second a mean (`average`),
as in the peers, or a sum, as printed. The second is an anchor: it stays on the recorded winner whatever a robustifier
does.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.methods.pairwise.base import Objective
from prefopt.methods.pairwise.pair import Pair


class CPO(Objective):
    """Args: beta: in units of the reward per nat. alpha: weight of the anchor. average: token means in the anchor."""

    uses_reference = False

    def __init__(self, *, beta: float = 0.1, alpha: float = 1.0, average: bool = True) -> None:
        super().__init__()
        self.beta, self.alpha, self.average = beta, alpha, average

    def preference(self, pair: Pair) -> Tensor:
        return -logsigmoid(self.beta * (pair.w.S - pair.l.S))

    def anchor(self, pair: Pair) -> Tensor:
        return -self.alpha * (pair.w.A if self.average else pair.w.S)

    def reward(self, logps: Tensor, reference: Tensor | None, length: Tensor) -> Tensor:
        return self.beta * logps.sum(-1)
