"""Which cluster each annotator is of: the E-step of a mixture of reward models, over annotators."""

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from prefopt.errors import PrefoptError
from prefopt.members import names
from prefopt.methods.memory import Memory
from prefopt.methods.metrics import Metrics
from prefopt.methods.pairwise.robust.members import counted
from prefopt.table import Table


class Membership(Memory):
    """q: [R, A + 1, U] responsibilities of U clusters for A annotators in R restarts; the last row, of annotators that
    the training data do not have, is the clusters' shares.

    size: [A] training pairs of each. explained: [R] log-likelihood in nats a pair, log 1/2 before any E-step. moved:
    [R] share of annotators that the last E-step has given another cluster.
    """

    q: Tensor
    size: Tensor
    explained: Tensor
    moved: Tensor

    def __init__(self, *, clusters: int, restarts: int, soft: bool) -> None:
        super().__init__()
        self.clusters, self.restarts, self.soft = clusters, restarts, soft
        self.generator: torch.Generator | None = None
        self._remember(torch.full((restarts, 1, clusters), 1 / clusters, dtype=torch.float64), torch.zeros(0))

    def begin(self, data: Table) -> None:
        """At random, as many annotators in each cluster as may be.

        Raises PrefoptError where a pair has no annotator, or clusters are more than annotators.
        """
        size = counted(data, "annotator")
        if size[-1]:
            raise PrefoptError(
                f"{int(size[-1])} of {len(data)} training pairs do not say who labelled them, and clusters are of "
                "annotators",
                "give the data a column annotator, or use method=bradley_terry",
            )
        if (present := int((size > 0).sum())) < self.clusters:
            raise PrefoptError(
                f"method.clusters={self.clusters}, but {present} annotators have labelled the training pairs",
                f"set method.clusters to {present} or less",
            )
        annotators = len(names(data, "annotator"))
        draws = [torch.randperm(annotators, generator=self.generator) for _ in range(self.restarts)]
        q = torch.stack([one_hot(draw % self.clusters, self.clusters).double() for draw in draws])
        self._remember(torch.cat([q, self._shares(q, size[:-1])[:, None]], 1), size[:-1])

    def _remember(self, q: Tensor, size: Tensor) -> None:
        self.register_buffer("q", q)
        self.register_buffer("size", size.double())
        self.register_buffer("explained", torch.full((self.restarts,), -math.log(2), dtype=torch.float64))
        self.register_buffer("moved", torch.ones(self.restarts, dtype=torch.float64))

    @staticmethod
    def _shares(q: Tensor, size: Tensor) -> Tensor:
        """[R, U] of the annotators that have pairs."""
        return q[:, size > 0].mean(1)

    def of(self, annotator: Tensor | None, like: Tensor) -> Tensor:
        """[R, U, B] responsibilities for the pairs `like` [B]."""
        unknown = self.q.shape[1] - 1
        place = torch.full_like(like, unknown, dtype=torch.long) if annotator is None else annotator
        place = torch.where((place >= 0) & (place < unknown), place, unknown)
        return self.q[:, place].transpose(1, 2).to(like.dtype)

    @property
    def best(self) -> Tensor:
        """[] the restart of the highest likelihood."""
        return self.explained.argmax()

    def assigned(self) -> Tensor:
        """[A] the likeliest cluster of each, in the best restart."""
        return self.q[self.best, :-1].argmax(-1)

    def expect(self, ll: Tensor) -> None:
        """The E-step. ll: [R, A, U] log-likelihood of all pairs of an annotator under each cluster's reward model.

        hard:  q_au = 1[ u = argmax ll_a ]       soft:  q_au proportional to share_u exp ll_au,  share_u = mean_a q_au
        """
        before, shares = self.q[:, :-1], self._shares(self.q[:, :-1], self.size)
        joint = ll + shares.log()[:, None] if self.soft else ll
        q = joint.softmax(-1) if self.soft else one_hot(ll.argmax(-1), self.clusters).to(ll)
        self.explained = (joint.logsumexp(-1) if self.soft else ll.amax(-1)).sum(-1) / self.size.sum()
        present = self.size > 0
        q[:, present] = torch.stack(
            [reseeded(*each, self.size[present]) for each in zip(q[:, present], ll[:, present], strict=True)]
        )
        q[:, ~present] = self._shares(q, self.size)[:, None]
        changed = q.argmax(-1) != before.argmax(-1)
        self.moved = changed[:, present].double().mean(-1)
        self.q = torch.cat([q, self._shares(q, self.size)[:, None]], 1)

    def facts(self) -> Metrics:
        shares = {f"em/share/{u}": share for u, share in enumerate(self.q[self.best, -1])}
        return {"em/log_likelihood": self.explained[self.best], "em/moved": self.moved[self.best], **shares}


def reseeded(q: Tensor, ll: Tensor, size: Tensor) -> Tensor:
    """q [A, U], with the worst-explained annotator in each cluster that was nobody's likeliest.

    It comes from a cluster that keeps another, and is the one whose pairs have the lowest mean log-likelihood.
    """
    q, clusters = q.clone(), q.shape[1]
    for u in range(clusters):
        likeliest = q.argmax(-1)
        members = torch.bincount(likeliest, minlength=clusters)
        if not members[u]:
            explained = (q * ll).sum(-1) / size
            worst = explained.masked_fill(members[likeliest] < 2, torch.inf).argmin()
            q[worst] = one_hot(torch.tensor(u), clusters).to(q)
    return q
