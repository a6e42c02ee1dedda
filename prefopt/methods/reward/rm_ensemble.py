"""An ensemble of reward models, for a conservative judge (Coste, Anwar, Kirk and Krueger, 2024, arXiv 2310.02743).

    L = sum_i L_BT(r_i),   i = 1 .. k: the same pairs, another head and another order for each

    mean: (1/k) sum_i r_i     WCO: min_i r_i     UWO: mean_i r_i - lam Var_i r_i

Where the pairs pin a reward down the members agree, elsewhere they differ; whoever optimises against them chooses how
they are made one (`method/aggregate`), after each was standardised over what the reference policy answers.
"""

from typing import Any

import torch
from torch import Tensor

from prefopt.batch import Pairs
from prefopt.methods.base import Method
from prefopt.methods.metrics import Metrics
from prefopt.methods.pairwise.base import Robustifier
from prefopt.methods.reward.several import Several
from prefopt.models.ensemble import Shared


class RewardEnsemble(Several):
    """Args: members, robust, margin, centring: as in `Several`. shared: k heads on one backbone, for little more than
    the cost of one reward model; then all see the pairs in one order, and their gradient is clipped as one."""

    def __init__(
        self, *, members: int, robust: Robustifier, shared: bool = False, margin: float = 0.0, centring: float = 0.0
    ) -> None:
        super().__init__(members=members, robust=robust, margin=margin, centring=centring)
        self.shared = shared

    @property
    def form(self) -> Shared | None:
        return Shared(self.members) if self.shared else None

    def _each(self, batch: Pairs) -> tuple[Tensor, Metrics]:
        if not self.shared:
            return super()._each(batch)
        robusts: Any = self.robusts
        said = zip(self.reward.each(batch), robusts, strict=True)
        losses, told = zip(*(self._losses(rewards, batch, robust) for rewards, robust in said), strict=True)
        return torch.stack(losses), {name: torch.stack([one[name] for one in told]) for name in told[0]}

    def _extend(self) -> None:
        if not self.shared:
            super()._extend()

    def _clipped(self, most: float) -> Tensor:
        return Method._clipped(self, most) if self.shared else super()._clipped(most)
