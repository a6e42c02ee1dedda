"""The general preference model, GPM (Zhang et al., ICML 2025, arXiv 2410.02197): preferences that may run in circles.

    L(+) = -log sigmoid( s(y_w > y_l | x) / tau - margin |m| ),   L(-) that of the swapped pair
    L = robust( L(+), L(-) )

s is a skew-symmetric form of one embedding a response (`prefopt.models.preference`), so K responses cost K passes; for
v = (r, 1) it is Bradley-Terry's difference of rewards. Left out: the paper's optional SFT term, off in its reported
runs.
"""

from prefopt.methods.pairwise.base import Robustifier
from prefopt.methods.reward.bradley_terry import BradleyTerry
from prefopt.models.preference import Form


class GPM(BradleyTerry):
    """Learns log-odds from pairs; its reward is their mean over a group, which of two differs by them.

    Args: robust: as in the pairwise family. margin: as in Bradley-Terry. dimension: 2k of the embedding. tau:
    temperature. gate: let the prompt weigh the k planes, and normalise embeddings; in text.
    """

    def __init__(
        self, *, robust: Robustifier, margin: float = 0.0, dimension: int = 6, tau: float = 0.1, gate: bool = False
    ) -> None:
        super().__init__(robust=robust, margin=margin)
        self.dimension, self.tau, self.gate = dimension, tau, gate
        _ = self.form

    @property
    def form(self) -> Form:
        return Form(self.dimension, self.tau, self.gate)
