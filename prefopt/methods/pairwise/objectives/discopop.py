"""DiscoPOP, the log-ratio modulated loss (Lu et al., 2024, arXiv 2406.08414).

    L = (1 - m) [-log sigmoid(z)] + m e^-z,   m = sigmoid(z/tau),  z as in DPO

A blend of the logistic loss where z < 0 and the exponential one where z > 0, found by a search over programs; it is not
convex. Log-probs are sums over tokens.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.errors import PrefoptError
from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.pair import Pair


class DiscoPOP(DPO):
    """Args: beta as in DPO. tau: width of the blend, in (0, 1].

    Raises PrefoptError for other widths: beyond 1 the exponential has no bound where z < 0.
    """

    def __init__(self, *, beta: float = 0.05, tau: float = 0.05) -> None:
        super().__init__(beta=beta)
        if not 0 < tau <= 1:
            raise PrefoptError(f"method.objective.tau={tau} is outside (0, 1]", "use 0.05, as in the paper")
        self.tau = tau

    def preference(self, pair: Pair) -> Tensor:
        z = self.z(pair)
        logistic = -logsigmoid(z) * (-z / self.tau).sigmoid()
        return logistic + (logsigmoid(z / self.tau) - z).exp()
