"""What an objective knows of a batch of pairs."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from prefopt.batch import Pairs, chosen_rejected


@dataclass(frozen=True)
class Side:
    """One response of each pair, the winner or the loser as recorded.

    logps: [B, T] token log-probs of the policy in nats, zero outside `mask`. reference: the same of the frozen
    reference, None for objectives without one. length: [B] tokens. collisions: [B, T] log sum_v pi(v | ...)^2, the
    log-probability that two draws of the next token agree, without a gradient; None for objectives that do not ask.
    """

    logps: Tensor
    reference: Tensor | None
    length: Tensor
    collisions: Tensor | None = None

    @property
    def S(self) -> Tensor:
        """[B] log pi(y | x), summed over tokens."""
        return self.logps.sum(-1)

    @property
    def A(self) -> Tensor:
        """[B] log pi(y | x) / |y|."""
        return self.S / self.length

    @property
    def ratio(self) -> Tensor:
        """[B] log pi(y | x) - log ref(y | x), summed over tokens."""
        assert self.reference is not None
        return self.S - self.reference.sum(-1)


@dataclass(frozen=True)
class Pair:
    """w: the recorded winner, l: the recorded loser. mean_length: [] tokens a response over the whole batch.

    margin: [B] recorded strength of the preference; None where the data have none.
    mismatched: [B, 2] log pi/ref of responses to other prompts of the batch, without a gradient, 0 where it has no
    other; None for objectives that do not ask.
    """

    w: Side
    l: Side  # noqa: E741
    mean_length: Tensor
    margin: Tensor | None = None
    mismatched: Tensor | None = None

    @classmethod
    def of(
        cls,
        batch: Pairs,
        logps: Tensor,
        reference: Tensor | None = None,
        collisions: Tensor | None = None,
        mismatched: Tensor | None = None,
    ) -> "Pair":
        """From [B, 2, T] numbers of the responses in their stored order."""

        def sides(values: Tensor | None) -> tuple[Any, Any]:
            return (None, None) if values is None else chosen_rejected(values, batch.label)

        w, l = (Side(*side) for side in zip(*map(sides, (logps, reference, batch.length, collisions)), strict=True))  # noqa: E741
        return cls(w, l, batch.mean_length, batch.margin, mismatched)

    def swapped(self) -> "Pair":
        """The same pair had its label been the other one: policy and reference change sides together."""
        return Pair(self.l, self.w, self.mean_length, self.margin, self.mismatched)


def mismatched(batch: Pairs) -> Pairs:
    """Each prompt with the responses of another pair, half the batch further on by index, where neighbours of the same
    prompt are far; the batch itself where it is one pair."""
    order = batch.index.argsort()
    partner = torch.empty_like(order)
    partner[order] = order.roll(len(batch) // 2)
    return replace(batch, response=batch.response[partner], length=batch.length[partner], reference=None)
