"""DPO-positive (Pal et al., 2024, arXiv 2402.13228).

    L = -log sigmoid( z - beta lam max(0, log ref(y_w)/pi(y_w)) ),   z as in DPO

DPO may lower the likelihood of both sides; the penalty forbids it for the winner. Log-probs are sums over tokens.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.pair import Pair


class DPOP(DPO):
    """Args: beta as in DPO. lam: weight of the penalty."""

    def __init__(self, *, beta: float = 0.1, lam: float = 5.0) -> None:
        super().__init__(beta=beta)
        self.lam = lam

    def preference(self, pair: Pair) -> Tensor:
        return -logsigmoid(self.z(pair) - self.beta * self.lam * relu(-pair.w.ratio))
