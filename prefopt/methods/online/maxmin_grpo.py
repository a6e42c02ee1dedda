"""MaxMin-RLHF from own samples (Chakraborty et al., ICML 2024, arXiv 2402.08925), by GRPO in the place of PPO.

    level `group`    lam_u <- lam_u exp(-eta F_u) / Z,   r = sum_u lam_u r_u,   F_u = mean of r_u over a round
    level `sample`   r = min_u ( r_u - mean r_u of the prompt's group )

The paper trains on the reward of argmin_u F_u; multiplicative weights come to the same where one group stays worst off,
and settle where that would go back and forth between groups that the optimum serves alike. GRPO standardises the reward
of each prompt's group once more, so that all prompts count alike.
"""

from typing import Literal

import torch
from torch import Tensor

from prefopt.batch import Rated
from prefopt.errors import PrefoptError
from prefopt.methods.metrics import Metrics
from prefopt.methods.online.grpo import GRPO
from prefopt.methods.rollout import sampled, worth
from prefopt.methods.selection.maxmin import LEVELS
from prefopt.models.ensemble import members
from prefopt.table import Table

LEAST = 1e-6
"""A group's weight at least before a step, so that one that was served well can come back."""


class MaxMinGRPO(GRPO):
    """Args: level: group or sample. eta: > 0, step of the weights. The others: as in `GRPO`."""

    maximises = False
    utility: Tensor
    share: Tensor

    def __init__(
        self,
        *,
        level: Literal["group", "sample"] = "group",
        eta: float = 0.3,
        group_size: int = 8,
        prompts: int = 64,
        passes: int = 1,
        low: float = 0.2,
        high: float = 0.2,
        beta: float = 0.04,
        eps: float = 1e-6,
    ) -> None:
        super().__init__(group_size=group_size, prompts=prompts, passes=passes, low=low, high=high, beta=beta, eps=eps)
        if level not in LEVELS:
            raise PrefoptError(f"method.level={level} is no level", "choose group or sample")
        if not 0 < eta < float("inf"):
            raise PrefoptError(f"method.eta={eta} is no step", "give a positive number")
        self.level, self.eta = level, eta

    def _extend(self) -> None:
        U = len(members(self.reward))
        self.register_buffer("utility", torch.zeros(U, dtype=torch.float64, device=self.device))
        self.register_buffer("share", torch.full_like(self.utility, 1 / U))

    @torch.no_grad()
    def collect(self, data: Table, round: int) -> Table:
        rows, parts = sampled(self, data, round, self.group_size)
        each = [torch.cat([member.score(groups) for groups in parts]) for member in members(self.reward)]
        return worth(self, data.ids[rows], parts, self._served(torch.stack(each)))

    def _served(self, r: Tensor) -> Tensor:
        """[B, n] what to raise, of the groups' rewards [U, B, n]; the weights take a step."""
        self.utility.copy_(r.mean((1, 2)))
        if self.level == "sample":
            return (r - r.mean(-1, keepdim=True)).amin(0)
        self.share.copy_((self.share.clamp(min=LEAST).log() - self.eta * self.utility).softmax(0))
        return torch.einsum("u,ubn->bn", self.share.to(r), r)

    def loss(self, batch: Rated) -> tuple[Tensor, Metrics]:
        losses, metrics = super().loss(batch)
        told = {f"objective/utility/{u}": value for u, value in enumerate(self.utility)}
        if self.level == "group":
            told |= {f"objective/weight/{u}": value for u, value in enumerate(self.share)}
        return losses, metrics | told
