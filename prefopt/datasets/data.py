"""What a dataset gives to a run: tables to learn from, and, apart from them, the truth to measure with."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from prefopt.batch import Groups
from prefopt.table import Table


class World(Protocol):
    """A world whose reward is known exactly."""

    @property
    def temperature(self) -> float:
        """Of its labels, in units of the reward."""
        ...

    def reward(self, groups: Groups) -> Tensor:
        """[B, n] gold reward of each response."""
        ...


@runtime_checkable
class Preferring(Protocol):
    """A world that prefers one response to another without a reward behind it."""

    def log_odds(self, groups: Groups) -> Tensor:
        """[B, n, n] that response i is preferred to response j."""
        ...


@dataclass(frozen=True)
class Truth:
    """What no loss may see, row by row of a table of pairs, or of choices among n responses.

    label: [N] the preference before noise. flipped: [N] whether the recorded one is another. gold: [N, n] reward of
    each response (nan where it is not known).
    """

    label: np.ndarray
    flipped: np.ndarray
    gold: np.ndarray


@dataclass(frozen=True)
class Split:
    """One split: its table of pairs, or of choices, and the truth about it."""

    pairs: Table
    truth: Truth

    def relabelled(self, label: np.ndarray) -> "Split":
        """The same pairs with these labels [N]; the true ones stay known to the truth alone."""
        truth = replace(self.truth, flipped=label != self.truth.label)
        return Split(replace(self.pairs, columns={**self.pairs.columns, "label": label}), truth)


@dataclass(frozen=True)
class Data:
    """A dataset as a run sees it.

    train, test: preference pairs, or choices. demonstrations: what `method=sft` imitates. world: the gold reward where
    it is known. counts: what was read, used, cut and dropped, by reason.
    """

    train: Split
    test: Split
    demonstrations: Table | None = None
    world: World | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    max_prompt_length: int = 1
    max_response_length: int = 1

    def save(self, folder: Path) -> None:
        """Write all but the world."""
        for name, split in (("train", self.train), ("test", self.test)):
            split.pairs.save(folder / name)
            for fact, values in vars(split.truth).items():
                np.save(folder / f"{name}.{fact}.npy", values, allow_pickle=False)
        if self.demonstrations is not None:
            self.demonstrations.save(folder / "demonstrations")
        facts = (dict(self.counts), self.max_prompt_length, self.max_response_length)
        (folder / "data.json").write_text(json.dumps(facts))

    @classmethod
    def load(cls, folder: Path, world: World | None) -> "Data":
        """What `save` wrote, memory-mapped, in this world."""
        counts, max_prompt_length, max_response_length = json.loads((folder / "data.json").read_text())
        train, test = (
            Split(
                Table.load(folder / name),
                Truth(**{fact.name: np.load(folder / f"{name}.{fact.name}.npy") for fact in fields(Truth)}),
            )
            for name in ("train", "test")
        )
        shown = folder / "demonstrations"
        demonstrations = Table.load(shown) if shown.exists() else None
        return cls(train, test, demonstrations, world, counts, max_prompt_length, max_response_length)
