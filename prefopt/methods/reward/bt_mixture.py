"""A mixture of Bradley-Terry reward models by EM over annotators (Chakraborty et al., ICML 2024, arXiv 2402.08925).

    E-step   q_au = 1[ u = argmax ll_a ],   ll_au = sum_{pairs of a} log sigmoid( r_u(x, y_w) - r_u(x, y_l) )
    M-step   r_u <- argmin  sum_a q_au sum_{pairs of a} L_BT(r_u),   from the previous r_u

A round is one iteration: `passes` over the pairs are its M-step, `finish` its E-step. Several restarts, each from an
assignment of its own, learn side by side, and the one of the highest likelihood counts. A cluster that loses all of its
annotators is given the one whose labels are explained worst.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.batch import Groups, Pairs, chosen_rejected
from prefopt.engine.loader import sequential
from prefopt.errors import PrefoptError
from prefopt.methods.metrics import Metrics
from prefopt.methods.pairwise.base import Robustifier
from prefopt.methods.reward.membership import Membership
from prefopt.methods.reward.several import Several
from prefopt.models.ensemble import Restarts
from prefopt.models.scorer import finite

ASSIGN = 2
"""What is drawn beside the members' beginnings and orders."""
AT_ONCE = 64
"""Pairs of which the E-step computes the likelihood at once."""


class BTMixture(Several):
    """Args: clusters: U. restarts: how many. assignment: hard (the paper's) or soft. passes: of an M-step. robust,
    margin, centring: as in `BradleyTerry`; the E-step has neither.

    Raises PrefoptError where the data do not tell annotators, or have fewer than clusters, and where a reward is not
    finite.
    """

    def __init__(
        self,
        *,
        robust: Robustifier,
        clusters: int = 2,
        restarts: int = 8,
        assignment: Literal["hard", "soft"] = "hard",
        passes: int = 10,
        margin: float = 0.0,
        centring: float = 0.0,
    ) -> None:
        for key, value in (("clusters", clusters), ("restarts", restarts), ("passes", passes)):
            if value < 1:
                raise PrefoptError(f"method.{key}={value} is too few", "give at least 1")
        if assignment not in ("hard", "soft"):
            raise PrefoptError(f"method.assignment={assignment} is no E-step", "choose hard or soft")
        super().__init__(members=clusters * restarts, robust=robust, margin=margin, centring=centring)
        self.membership = Membership(clusters=clusters, restarts=restarts, soft=assignment == "soft")
        self.clusters, self.passes = clusters, passes
        self.least_rounds = 2 if clusters > 1 else 1  # the first is of a random assignment

    def loss(self, batch: Pairs) -> tuple[Tensor, Metrics]:
        """The sum over restarts of the responsible clusters' losses [B], and the metrics of the best restart."""
        each, robusts = [], list[Any](self.robusts)
        for member, robust in zip(self.reward.members, robusts, strict=True):
            each.append(self._losses(member.score(batch), batch, robust))
        losses = torch.stack([losses for losses, _ in each])
        q = self.membership.of(batch.annotator, losses[0].detach())
        best = self.membership.best

        def reported(name: str) -> Tensor:
            of_members = torch.stack([told[name].expand(len(batch)) for _, told in each]).view_as(q)
            return (q[best] * of_members[best]).sum(0)

        metrics = {name: reported(name) for name in each[0][1]}
        return (q * losses.view_as(q)).sum((0, 1)), metrics | self.membership.facts()

    @torch.no_grad()
    def weigh(self, batch: Pairs) -> Tensor | None:
        restart = int(self.membership.best)
        trusts, robusts = [], list[Any](self.robusts)[restart * self.clusters :][: self.clusters]
        for rewards, robust in zip(self.reward.chosen.each(batch), robusts, strict=True):
            r_w, r_l = chosen_rejected(rewards, batch.label)
            trusts.append(robust.trust(*self._sides(r_w - r_l, batch), batch))
        if trusts[0] is None:
            return None
        return (self.membership.of(batch.annotator, trusts[0])[restart] * torch.stack(trusts)).sum(0)

    def score(self, groups: Groups) -> Tensor:
        """[B, n] by the clusters that whoever labelled a pair is of; of what nobody has labelled, by their shares."""
        r = self.reward.chosen.each(groups)
        q = self.membership.of(getattr(groups, "annotator", None), r[0, :, 0])[self.membership.best]
        return (q[..., None] * r).sum(0)

    @torch.no_grad()
    def finish(self, round: int) -> None:
        if self._given is None:
            return
        was_training = self.reward.training
        self.reward.eval()
        ll = self.membership.q.new_zeros(len(self.membership.size), self.members)
        for pairs in sequential(self._given, AT_ONCE):
            batch: Any = pairs.to(ll.device)
            rewards = torch.stack([member.score(batch) for member in self.reward.members], -1)
            r_w, r_l = chosen_rejected(finite(rewards), batch.label)
            ll.index_add_(0, batch.annotator, logsigmoid((r_w - r_l).to(ll.dtype)))
        self.reward.train(was_training)
        self.membership.expect(ll.T.view(-1, self.clusters, len(ll)).transpose(1, 2))
        self.reward.best.copy_(self.membership.best)

    def _extend(self) -> None:
        super()._extend()
        self.reward = Restarts(self.reward.members, self.clusters)
        self.membership.generator = self.generator(ASSIGN)
