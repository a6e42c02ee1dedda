"""Simple preference optimisation (Meng et al., 2024, arXiv 2405.14734).

    L = -log sigmoid( beta [ log pi(y_w)/|y_w| - log pi(y_l)/|y_l| ] - gamma )

Log-probs are means over tokens, and there is no reference.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.methods.pairwise.base import Objective
from prefopt.methods.pairwise.pair import Pair


class SimPO(Objective):
    """Args: beta: in units of the reward per nat a token. gamma: margin of the reward."""

    uses_reference = False

    def __init__(self, *, beta: float = 2.5, gamma: float = 0.5) -> None:
        super().__init__()
        self.beta, self.gamma = beta, gamma

    def preference(self, pair: Pair) -> Tensor:
        return -logsigmoid(self.beta * (self.shape(pair.w.A) - self.shape(pair.l.A)) - self.gamma)

    def reward(self, logps: Tensor, reference: Tensor | None, length: Tensor) -> Tensor:
        return self.beta * self.shape(logps.sum(-1) / length)

    def shape(self, A: Tensor) -> Tensor:
        """Reward, in units of beta, of a mean log-prob a token."""
        return A
