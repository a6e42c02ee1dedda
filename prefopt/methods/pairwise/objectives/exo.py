"""Efficient exact optimisation on pairs, EXO-pref (Ji et al., 2024, arXiv 2402.00856).

    L = KL(q || p) = q log q/(1 - eps) + (1 - q) log (1 - q)/eps,   q = sigmoid(z),  z as in DPO

The reverse KL from the policy's choice q to the smoothed label p = (1 - eps, eps). It is bounded: a pair that is
contradicted outright costs -log eps and has no gradient. Its minimum is at z = log((1 - eps)/eps). Log-probs are sums
over tokens.
"""

from math import log, log1p

from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.errors import PrefoptError
from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.pair import Pair


class EXO(DPO):
    """Args: beta as in DPO. epsilon: smoothing of the label, in (0, 0.5).

    Raises PrefoptError for other smoothings: at 0 a label has no finite KL.
    """

    def __init__(self, *, beta: float = 0.1, epsilon: float = 1e-3) -> None:
        super().__init__(beta=beta)
        if not 0 < epsilon < 0.5:
            raise PrefoptError(f"method.objective.epsilon={epsilon} is outside (0, 0.5)", "use 1e-3, as in the paper")
        self.epsilon = epsilon

    def preference(self, pair: Pair) -> Tensor:
        z = self.z(pair)
        for_w = z.sigmoid() * (logsigmoid(z) - log1p(-self.epsilon))
        return for_w + (-z).sigmoid() * (logsigmoid(-z) - log(self.epsilon))
