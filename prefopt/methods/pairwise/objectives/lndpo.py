"""Length-normalised DPO (Ahrabian et al., 2024, arXiv 2407.15229).

    L = -log sigmoid( beta [ rho(y_w) - rho(y_l) ] ),   rho(y) = 1/|y| log pi(y)/ref(y)

Log-probs are means over tokens, each response by its own length, so that length is no lever for the margin. For
responses of one length n it is DPO at beta/n: its beta is of the size of SimPO's (1 to 10), not of DPO's.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.methods.pairwise.base import Objective
from prefopt.methods.pairwise.pair import Pair


class LNDPO(Objective):
    """Args: beta: in units of the reward per nat a token."""

    def __init__(self, *, beta: float = 2.5) -> None:
        super().__init__()
        self.beta = beta

    def preference(self, pair: Pair) -> Tensor:
        rho_w, rho_l = (side.ratio / side.length for side in (pair.w, pair.l))
        return -logsigmoid(self.beta * (rho_w - rho_l))

    def reward(self, logps: Tensor, reference: Tensor | None, length: Tensor) -> Tensor:
        assert reference is not None
        return self.beta * (logps - reference).sum(-1) / length
