"""Learning from a fixed set of pairs: the product of an objective and a robustifier.

An objective turns a pair into two numbers: L(+), the loss if the recorded label is right, and L(-), the loss if it is
flipped. A robustifier turns these two into the loss to minimise. Anchors (SFT-like terms) stay on the recorded winner
and are never robustified: their unbiased version has no lower bound.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from prefopt.batch import Groups, Pairs, chosen_rejected
from prefopt.methods.base import Method, Metrics
from prefopt.methods.pairwise.pair import Pair


class Objective(ABC):
    """L(+) of a pair; L(-) is L(+) of the swapped pair.

    uses_reference: whether it needs reference log-probs.
    """

    uses_reference: ClassVar[bool] = True

    @abstractmethod
    def preference(self, pair: Pair) -> Tensor:
        """[B] the loss of the pair if its recorded label is right."""

    def anchor(self, pair: Pair) -> Tensor | None:
        """[B] what is added whatever the label, None where there is nothing."""
        return None

    @abstractmethod
    def reward(self, logps: Tensor, reference: Tensor | None, length: Tensor) -> Tensor:
        """[B, n] implied reward from [B, n, T] token log-probs and [B, n] tokens."""


class Robustifier(ABC):
    """The loss to minimise from L(+) and L(-)."""

    @abstractmethod
    def __call__(self, right: Tensor, flipped: Tensor) -> Tensor:
        """[B] from [B] L(+) and [B] L(-)."""


class Pairwise(Method):
    """objective x robustifier."""

    eats = Pairs

    def __init__(self, *, objective: Objective, robust: Robustifier) -> None:
        super().__init__()
        self.objective, self.robust = objective, robust
        self.roles = ("policy", "reference") if objective.uses_reference else ("policy",)

    def loss(self, batch: Pairs) -> tuple[Tensor, Metrics]:
        logps = self.policy.logps(batch)
        reference = self.reference_logps(batch) if self.objective.uses_reference else None
        pair = Pair.of(batch, logps, reference)
        losses = self.robust(self.objective.preference(pair), self.objective.preference(pair.swapped()))
        anchor = self.objective.anchor(pair)
        losses = losses if anchor is None else losses + anchor
        return losses, self.metrics(batch, pair, logps.detach(), reference)

    @torch.no_grad()
    def metrics(self, batch: Pairs, pair: Pair, logps: Tensor, reference: Tensor | None) -> Metrics:
        reward_w, reward_l = chosen_rejected(self.objective.reward(logps, reference, batch.length), batch.label)
        return {
            "rewards/chosen": reward_w,
            "rewards/rejected": reward_l,
            "rewards/margins": reward_w - reward_l,
            "rewards/accuracies": (reward_w > reward_l).float(),
            "logps/chosen": pair.w.S,
            "logps/rejected": pair.l.S,
        }

    def score(self, groups: Groups) -> Tensor:
        reference = self.reference_logps(groups) if self.objective.uses_reference else None
        return self.objective.reward(self.policy.logps(groups), reference, groups.length)
