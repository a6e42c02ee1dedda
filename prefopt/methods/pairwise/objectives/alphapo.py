"""AlphaPO, SimPO with another shape of the reward (Gupta et al., 2025, arXiv 2501.03884).

    L = -log sigmoid( beta (r_w - r_l) - gamma ),   r = (1 - p^-alpha)/alpha,   p = pi(y)^(1/|y|)

alpha -> 0 is SimPO; alpha > 0 punishes unlikely responses harder. Log-probs are means over tokens, and there is no
reference.
"""

from torch import Tensor

from prefopt.methods.pairwise.objectives.exponential import expm1
from prefopt.methods.pairwise.objectives.simpo import SimPO


class AlphaPO(SimPO):
    """Args: beta, gamma as in SimPO. alpha: shape of the reward."""

    def __init__(self, *, beta: float = 2.5, gamma: float = 0.5, alpha: float = 0.25) -> None:
        super().__init__(beta=beta, gamma=gamma)
        self.alpha = alpha

    def shape(self, A: Tensor) -> Tensor:
        return -expm1(-self.alpha * A) / self.alpha if self.alpha else A
