"""Batches in an order that is a pure function of (seed, round), and that can be taken up in the middle."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from prefopt import ranks, stop
from prefopt.batch import Groups
from prefopt.table import Table

WINDOW = 16
"""Batches within which examples are sorted by length."""


class Loader:
    """One round over a table, `passes` times, in batches whose sizes differ by at most one example.

    mixed: batches are drawn without regard to length, for losses that compare the examples of a batch. rows: of the
    table, gone through in this order; None: all of them, shuffled.
    Where several processes share the run, each gets its own part of every batch: the plan is the same for all.
    `state_dict` says how many batches were given; Lightning stores it in its checkpoints and hands it back.
    """

    def __init__(
        self,
        table: Table,
        *,
        batch_size: int,
        seed: int,
        round: int,
        passes: int = 1,
        mixed: bool = False,
        rows: np.ndarray | None = None,
    ) -> None:
        self.table = table
        draws = np.random.default_rng([seed, round])
        parts = batches(len(table) if rows is None else len(rows), batch_size)
        lengths = np.zeros(len(table), np.int64) if mixed else table.lengths

        def one_pass() -> list[np.ndarray]:
            return bucketed(lengths, parts, draws) if rows is None else np.array_split(rows, parts)

        self.plan = [batch for _ in range(passes) for batch in one_pass()]
        self.given = 0
        self._start = 0

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Groups]:
        self.given, self._start = self._start, 0
        while self.given < len(self.plan):
            rows = self.plan[self.given]
            self.given += 1
            yield self.table.batch(rows, ranks.place().rank, ranks.world())

    def state_dict(self) -> dict[str, Any]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._start = state["given"]


def bucketed(lengths: np.ndarray, parts: int, draws: np.random.Generator) -> list[np.ndarray]:
    """A shuffled pass in `parts` batches of examples of similar length, so that little of a batch is padding.

    Examples are shuffled, sorted by length within windows of `WINDOW` batches, and the batches shuffled again.
    """
    shuffle = draws.permutation(len(lengths))
    window = np.arange(len(lengths)) * parts // (WINDOW * len(lengths))
    rows = shuffle[np.lexsort((lengths[shuffle], window))]
    plan = np.array_split(rows, parts)
    return [plan[k] for k in draws.permutation(parts)]


def batches(examples: int, batch_size: int) -> int:
    """How many batches of about `batch_size` one pass over the examples has."""
    return max(1, int(examples / batch_size + 0.5))


def sequential(table: Table, batch_size: int, rows: np.ndarray | None = None) -> Iterator[Groups]:
    """The rows in their order, for measuring. Raises Interrupted where the process was asked to stop."""
    rows = np.arange(len(table)) if rows is None else rows
    for start in range(0, len(rows), batch_size):
        stop.check()
        yield table.batch(rows[start : start + batch_size])
