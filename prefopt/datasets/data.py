"""What a dataset gives to a run: tables to learn from, and, apart from them, the truth to measure with."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from torch import Tensor

from prefopt.batch import Groups
from prefopt.table import Table


class World(Protocol):
    """A world whose reward is known exactly."""

    def reward(self, groups: Groups) -> Tensor:
        """[B, n] gold reward of each response."""
        ...


@dataclass(frozen=True)
class Truth:
    """What no loss may see, row by row of a table of pairs.

    label: [N] the preference before noise. flipped: [N] whether noise turned it. gold: [N, 2] reward of each response
    (nan where it is not known).
    """

    label: np.ndarray
    flipped: np.ndarray
    gold: np.ndarray


@dataclass(frozen=True)
class Split:
    """One split: its table of pairs and the truth about it."""

    pairs: Table
    truth: Truth

    def relabelled(self, flipped: np.ndarray) -> "Split":
        """The same pairs with these labels turned; the true label stays known to the truth alone."""
        label = np.where(flipped, 1 - self.truth.label, self.truth.label)
        return Split(
            replace(self.pairs, columns={**self.pairs.columns, "label": label}), replace(self.truth, flipped=flipped)
        )


@dataclass(frozen=True)
class Data:
    """A dataset as a run sees it.

    train, test: preference pairs. demonstrations: what `method=sft` imitates. world: the gold reward where it is
    known. counts: what was read, used, cut and dropped, by reason.
    """

    train: Split
    test: Split
    demonstrations: Table | None = None
    world: World | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    max_prompt_length: int = 1
    max_response_length: int = 1
