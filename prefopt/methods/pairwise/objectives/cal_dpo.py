"""Calibrated DPO (Xiao et al., 2024, arXiv 2412.14516).

    h = log pi/ref,   L = -log sigmoid(h_w - h_l) + 1/2 (h_w - 1/(2 beta))^2 + 1/2 (h_l + 1/(2 beta))^2

The implied reward beta h of a winner is drawn towards 1/2 and that of a loser towards -1/2. As in the authors' code,
the first term has no beta, and the squares have weight 1/2. Log-probs are sums over tokens.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.pair import Pair


class CalDPO(DPO):
    """Args: beta as in DPO."""

    def preference(self, pair: Pair) -> Tensor:
        h_w, h_l, target = pair.w.ratio, pair.l.ratio, 1 / (2 * self.beta)
        return -logsigmoid(h_w - h_l) + ((h_w - target) ** 2 + (h_l + target) ** 2) / 2
