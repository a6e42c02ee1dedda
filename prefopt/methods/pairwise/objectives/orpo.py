"""Odds-ratio preference optimisation (Hong et al., 2024, arXiv 2403.07691).

    L = -A_w - lam log sigmoid( log odds(y_w) - log odds(y_l) ),   log odds(y) = A - log(1 - e^A),   A = log pi(y)/|y|

Log-probs are means over the tokens of the response, and there is no reference. The first term is an anchor: it stays on
the recorded winner whatever a robustifier does.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.methods.pairwise.base import Objective
from prefopt.methods.pairwise.pair import Pair

CERTAIN = -1e-7
"""The largest mean log-prob whose odds are told apart from infinity."""


class ORPO(Objective):
    """Args: lam: weight of the odds ratio."""

    uses_reference = False

    def __init__(self, *, lam: float = 0.1) -> None:
        super().__init__()
        self.lam = lam

    def preference(self, pair: Pair) -> Tensor:
        return -self.lam * logsigmoid(_log_odds(pair.w.A) - _log_odds(pair.l.A))

    def anchor(self, pair: Pair) -> Tensor:
        return -pair.w.A

    def reward(self, logps: Tensor, reference: Tensor | None, length: Tensor) -> Tensor:
        return _log_odds(logps.sum(-1) / length)


def _log_odds(A: Tensor) -> Tensor:
    return A - (-A.clamp(max=CERTAIN).expm1()).log()
