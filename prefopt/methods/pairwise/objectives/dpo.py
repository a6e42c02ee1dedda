"""Direct preference optimisation (Rafailov et al., 2023, arXiv 2305.18290).

    z = beta [ log pi(y_w)/ref(y_w) - log pi(y_l)/ref(y_l) ],   L = -log sigmoid(z)

Log-probs are sums over tokens.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.methods.pairwise.base import Objective
from prefopt.methods.pairwise.pair import Pair


class DPO(Objective):
    """Args: beta: in units of the reward per nat."""

    def __init__(self, *, beta: float = 0.1) -> None:
        super().__init__()
        self.beta = self.price = beta

    def preference(self, pair: Pair) -> Tensor:
        return -logsigmoid(self.z(pair))

    def z(self, pair: Pair) -> Tensor:
        """[B] implied reward of the winner less that of the loser."""
        return self.beta * (pair.w.ratio - pair.l.ratio)

    def rewards(self, pair: Pair) -> tuple[Tensor, Tensor]:
        """c, r: [B] implied reward of the winner, and of the loser."""
        return self.beta * pair.w.ratio, self.beta * pair.l.ratio

    def reward(self, logps: Tensor, reference: Tensor | None, length: Tensor) -> Tensor:
        assert reference is not None
        return self.beta * (logps - reference).sum(-1)
