"""Kahneman-Tversky optimisation on pairs (Ethayarajh et al., 2024, arXiv 2402.01306).

    L = desirable (1 - sigmoid(c - beta k)) + undesirable (1 - sigmoid(beta k - r))
    k = max(0, mean log pi(y_j | x_i)/ref(y_j | x_i)),   i != j

c and r: implied rewards beta log pi/ref of winner and loser, log-probs summed over tokens. k estimates the KL to the
reference from mismatched prompts and responses of the batch, without a gradient; a batch of one pair has none, and
there k = 0. The winner counts as a desirable response and the loser as an undesirable one.
"""

from torch import Tensor

from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.pair import Pair


class KTO(DPO):
    """Args: beta as in DPO. desirable, undesirable: weights of the two sides."""

    coupled = True
    uses_mismatched = True

    def __init__(self, *, beta: float = 0.1, desirable: float = 1.0, undesirable: float = 1.0) -> None:
        super().__init__(beta=beta)
        self.desirable, self.undesirable = desirable, undesirable

    def preference(self, pair: Pair) -> Tensor:
        assert pair.mismatched is not None
        c, r = self.rewards(pair)
        level = self.beta * pair.mismatched.mean().clamp(min=0)
        return self.desirable * (level - c).sigmoid() + self.undesirable * (r - level).sigmoid()
