"""Learning from a fixed set of pairs: the product of an objective and a robustifier.

An objective turns a pair into two numbers: L(+), the loss if the recorded label is right, and L(-), the loss if it is
flipped. A robustifier turns these two into the loss to minimise. Anchors (SFT-like terms) stay on the recorded winner
and are not robustified: their unbiased version has no lower bound.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from prefopt.batch import Groups, Pairs
from prefopt.errors import PrefoptError
from prefopt.methods.base import Method
from prefopt.methods.memory import Memory
from prefopt.methods.metrics import Metrics
from prefopt.methods.pairwise.pair import Pair, mismatched


class Objective(Memory, ABC):
    """L(+) of a pair; L(-) is L(+) of the swapped pair.

    uses_reference: whether it needs reference log-probs. uses_collisions: whether it needs `Side.collisions`.
    uses_mismatched: whether it needs `Pair.mismatched`.
    coupled: whether the loss of a pair depends on the other pairs of its batch.
    price: reward that a nat of KL to the reference costs, where the reward is price * log pi/ref; None elsewhere.
    """

    uses_reference: ClassVar[bool] = True
    uses_collisions: ClassVar[bool] = False
    uses_mismatched: ClassVar[bool] = False
    coupled: ClassVar[bool] = False
    price: float | None = None

    @abstractmethod
    def preference(self, pair: Pair) -> Tensor:
        """[B] the loss of the pair if its recorded label is right."""

    def anchor(self, pair: Pair) -> Tensor | None:
        """[B] what is added whatever the label, None where there is nothing."""
        return None

    @abstractmethod
    def reward(self, logps: Tensor, reference: Tensor | None, length: Tensor) -> Tensor:
        """Implied reward [...] from token log-probs [..., T] and tokens [...]."""


class Robustifier(Memory, ABC):
    """The loss to minimise from L(+) and L(-).

    whole: whether the two that it is given hold the anchor, each on its own winner; else the anchor is added after it.
    weighs: whether it tells pairs apart, each by its own loss, annotator or group; not possible where they are coupled.
    coupled: whether the loss of a pair depends on the other pairs of its batch.
    """

    whole: ClassVar[bool] = False
    weighs: ClassVar[bool] = False
    coupled: ClassVar[bool] = False

    @abstractmethod
    def forward(self, right: Tensor, flipped: Tensor, batch: Pairs) -> Tensor:
        """[B] from [B] L(+) and [B] L(-)."""

    def trust(self, right: Tensor, flipped: Tensor, batch: Pairs) -> Tensor | None:
        """[B] probability that the recorded label is right, where it has an opinion."""
        return None


class Pairwise(Method):
    """objective x robustifier.

    Raises PrefoptError where the objective couples pairs that the robustifier has to tell apart.
    """

    eats: ClassVar[type[Pairs]] = Pairs

    def __init__(self, *, objective: Objective, robust: Robustifier) -> None:
        super().__init__()
        if objective.coupled and robust.weighs:
            raise PrefoptError(
                f"method.robust={_name(robust)} weighs pairs one by one, and method.objective={_name(objective)} has no"
                " loss of a single pair: it couples the pairs of a batch",
                "use method/robust=none, smoothing or unbiased, or an objective that stands for each pair alone "
                "(method/objective=dpo)",
            )
        self.objective, self.robust = objective, robust
        self.roles = ("policy", "reference") if objective.uses_reference else ("policy",)
        self.coupled = objective.coupled or robust.coupled

    def loss(self, batch: Pairs) -> tuple[Tensor, Metrics]:
        pair = self._pair(batch)
        return self._robust(pair, batch), self.metrics(pair)

    def _pair(self, batch: Pairs) -> Pair:
        """What the objective sees of a batch."""
        logps = self.policy.logps(batch)
        reference = self.reference_logps(batch) if self.objective.uses_reference else None
        collisions = self.policy.collisions(batch) if self.objective.uses_collisions else None
        mismatched = self._mismatched(batch) if self.objective.uses_mismatched else None
        return Pair.of(batch, logps, reference, collisions, mismatched)

    @torch.no_grad()
    def _mismatched(self, batch: Pairs) -> Tensor:
        """[B, 2] log pi/ref of the responses to other prompts."""
        others = mismatched(batch)
        return (self.policy.logps(others) - self.reference_logps(others)).sum(-1) * (len(batch) > 1)

    def _robust(self, pair: Pair, batch: Pairs) -> Tensor:
        """[B] the robustified loss, the anchor included."""
        losses: Tensor = self.robust(*self._sides(pair, batch), batch)
        anchor = None if self.robust.whole else self.objective.anchor(pair)
        return losses if anchor is None else losses + anchor

    def _sides(self, pair: Pair, batch: Pairs) -> tuple[Tensor, Tensor]:
        """[B] L(+) and [B] L(-), as the robustifier wants them."""
        right, flipped = (self._side(sided) for sided in (pair, pair.swapped()))
        return right, flipped

    def _side(self, pair: Pair) -> Tensor:
        loss = self.objective.preference(pair)
        anchor = self.objective.anchor(pair) if self.robust.whole else None
        return loss if anchor is None else loss + anchor

    @torch.no_grad()
    def weigh(self, batch: Pairs) -> Tensor | None:
        return self.robust.trust(*self._sides(self._pair(batch), batch), batch)

    @torch.no_grad()
    def metrics(self, pair: Pair) -> Metrics:
        reward_w, reward_l = (
            self.objective.reward(side.logps, side.reference, side.length) for side in (pair.w, pair.l)
        )
        return {
            "rewards/chosen": reward_w,
            "rewards/rejected": reward_l,
            "rewards/margins": reward_w - reward_l,
            "rewards/accuracies": (reward_w > reward_l).float(),
            "logps/chosen": pair.w.S.detach(),
            "logps/rejected": pair.l.S.detach(),
            **self.objective.facts(),
            **self.robust.facts(),
        }

    def score(self, groups: Groups) -> Tensor:
        reference = self.reference_logps(groups) if self.objective.uses_reference else None
        return self.objective.reward(self.policy.logps(groups), reference, groups.length)


def _name(part: object) -> str:
    """Its name in the configuration, which is that of its module."""
    return type(part).__module__.rpartition(".")[2]
