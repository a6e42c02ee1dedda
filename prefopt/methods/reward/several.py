"""Several Bradley-Terry reward models that learn at the same time: the base of methods that compare or combine them."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from prefopt.batch import Pairs, chosen_rejected, on_host
from prefopt.errors import PrefoptError
from prefopt.methods.metrics import Metrics
from prefopt.methods.pairwise.base import Robustifier
from prefopt.methods.reward.bradley_terry import BradleyTerry
from prefopt.models.ensemble import Ensemble

BEGINS, ORDER = 0, 1
"""What a member draws for itself."""


class Several(BradleyTerry):
    """`reward` is an Ensemble of members that begin differently and see the pairs in orders of their own, as if each
    was trained alone: gradients are clipped member by member, and a robustifier's memory is each one's own.

    The first member sees them in the order of a model trained alone.

    Args: members: how many. robust, margin, centring: as in `BradleyTerry`.
    Raises PrefoptError where members is less than 1.
    """

    def __init__(self, *, members: int, robust: Robustifier, margin: float = 0.0, centring: float = 0.0) -> None:
        super().__init__(robust=robust, margin=margin, centring=centring)
        if members < 1:
            raise PrefoptError(f"method.members={members} is no number of reward models", "give at least 1")
        self.members = members
        self.robusts = nn.ModuleList([robust, *(copy.deepcopy(robust) for _ in range(members - 1))])

    def loss(self, batch: Pairs) -> tuple[Tensor, Metrics]:
        """The sum of the members' losses [B], and the means of their metrics."""
        losses, metrics = self._each(batch)
        return losses.sum(0), {name: told.mean(0) for name, told in metrics.items()}

    def _each(self, batch: Pairs) -> tuple[Tensor, Metrics]:
        """[k, B] the members' losses, and [k, ...] their metrics."""
        each, robusts = [], list[Any](self.robusts)
        for k, (member, robust) in enumerate(zip(self.reward.members, robusts, strict=True)):
            own = self._seen(k, batch)
            each.append(self._losses(member.score(own), own, robust))
        metrics = {name: torch.stack([told[name] for _, told in each]) for name in each[0][1]}
        return torch.stack([losses for losses, _ in each]), metrics

    @torch.no_grad()
    def weigh(self, batch: Pairs) -> Tensor | None:
        trusts, robusts = [], list[Any](self.robusts)
        for rewards, robust in zip(self.reward.each(batch), robusts, strict=True):
            r_w, r_l = chosen_rejected(rewards, batch.label)
            trusts.append(robust.trust(*self._sides(r_w - r_l, batch), batch))
        return None if trusts[0] is None else torch.stack(trusts).mean(0)

    def _seen(self, k: int, batch: Pairs) -> Pairs:
        """What the k-th member sees in the place of a training batch; of other data, the batch."""
        if k == 0 or not self.training or self._given is None:
            return batch
        rows = self._orders[k - 1][on_host(batch.index)]
        seen: Any = self._given.batch(rows.numpy()).to(batch.label.device)
        return seen

    def _extend(self) -> None:
        self.reward = Ensemble(self._begun())
        size = 0 if self._given is None else len(self._given)
        self._orders = [torch.randperm(size, generator=self.generator(ORDER, k)) for k in range(1, self.members)]

    def _begun(self) -> list[Any]:
        """The members as they are before the first step."""
        first: Any = self.reward
        members = [first, *(copy.deepcopy(first) for _ in range(self.members - 1))]
        for k, member in enumerate(members):
            member.redraw(self.generator(BEGINS, k))
        return members

    def _clipped(self, most: float) -> Tensor:
        return torch.stack([self._clipped_part(member, most) for member in self.reward.members]).norm()
