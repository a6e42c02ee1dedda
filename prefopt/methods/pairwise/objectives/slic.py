"""SLiC-HF, sequence likelihood calibration (Zhao et al., 2023, arXiv 2305.10425).

    L = max(0, delta - log pi(y_w) + log pi(y_l))  -  lam * log pi(y_w)

Log-probs are sums over tokens, there is no reference, and the regularisation target is the recorded winner. The second
term is an anchor: it stays on the recorded winner whatever a robustifier does.
"""

from torch import Tensor
from torch.nn.functional import relu

from prefopt.methods.pairwise.base import Objective
from prefopt.methods.pairwise.pair import Pair


class SLiC(Objective):
    """Args: delta: margin in nats. lam: weight of the regularisation."""

    uses_reference = False

    def __init__(self, *, delta: float = 1.0, lam: float = 0.1) -> None:
        super().__init__()
        self.delta, self.lam = delta, lam

    def preference(self, pair: Pair) -> Tensor:
        return relu(self.delta - pair.w.S + pair.l.S)

    def anchor(self, pair: Pair) -> Tensor:
        return -self.lam * pair.w.S

    def reward(self, logps: Tensor, reference: Tensor | None, length: Tensor) -> Tensor:
        return logps.sum(-1)
