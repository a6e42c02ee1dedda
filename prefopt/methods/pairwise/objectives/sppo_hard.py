"""Self-play preference optimisation with hard labels (Wu et al., 2024, arXiv 2405.00675).

    L = ( log pi(y_w)/ref(y_w) - 1/(2 beta) )^2 + ( log pi(y_l)/ref(y_l) + 1/(2 beta) )^2

The paper regresses the log-ratio on (P(y wins) - 1/2)/beta, P by a preference model, over rounds of own samples; here
P is 1 for the recorded winner and 0 for the loser. Log-probs are sums over tokens.
"""

from torch import Tensor

from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.pair import Pair


class SPPOHard(DPO):
    """Args: beta as in DPO, 1/eta in the paper."""

    def preference(self, pair: Pair) -> Tensor:
        target = 1 / (2 * self.beta)
        return (pair.w.ratio - target) ** 2 + (pair.l.ratio + target) ** 2
