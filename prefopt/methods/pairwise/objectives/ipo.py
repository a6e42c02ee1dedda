"""Identity preference optimisation (Azar et al., 2023, arXiv 2310.12036).

    L = ( a_w - a_l - 1/(2 tau) )^2,   a = log pi(y)/ref(y), a mean over tokens (`average`) or a sum

The paper's formula has sums; its authors confirmed that their results used token averages, so that is the default.
The best tau differs between the two by about the length of a response.
"""

from torch import Tensor

from prefopt.methods.pairwise.base import Objective
from prefopt.methods.pairwise.pair import Pair


class IPO(Objective):
    """Args: tau: regularisation strength. average: token means instead of sums."""

    def __init__(self, *, tau: float = 0.1, average: bool = True) -> None:
        super().__init__()
        self.tau, self.average = tau, average

    def preference(self, pair: Pair) -> Tensor:
        a_w, a_l = (side.ratio / side.length if self.average else side.ratio for side in (pair.w, pair.l))
        return (a_w - a_l - 1 / (2 * self.tau)) ** 2

    def reward(self, logps: Tensor, reference: Tensor | None, length: Tensor) -> Tensor:
        assert reference is not None
        ratio = (logps - reference).sum(-1)
        return self.tau * (ratio / length if self.average else ratio)
