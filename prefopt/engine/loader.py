"""Batches in an order that is a pure function of (seed, round), and that can be taken up in the middle."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from prefopt.batch import Groups
from prefopt.table import Table


class Loader:
    """One round over a table, `passes` times, in batches whose sizes differ by at most one example.

    `state_dict` says how many batches were given; Lightning stores it in its checkpoints and hands it back.
    """

    def __init__(self, table: Table, *, batch_size: int, seed: int, round: int, passes: int = 1) -> None:
        self.table = table
        parts = batches(len(table), batch_size)
        shuffles = np.random.default_rng([seed, round]).permuted(np.tile(np.arange(len(table)), (passes, 1)), axis=1)
        self.plan = [rows for shuffle in shuffles for rows in np.array_split(shuffle, parts)]
        self.given = 0
        self._start = 0

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Groups]:
        self.given, self._start = self._start, 0
        while self.given < len(self.plan):
            rows = self.plan[self.given]
            self.given += 1
            yield self.table.batch(rows)

    def state_dict(self) -> dict[str, Any]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._start = state["given"]


def batches(examples: int, batch_size: int) -> int:
    """How many batches of about `batch_size` one pass over the examples has."""
    return max(1, int(examples / batch_size + 0.5))


def sequential(table: Table, batch_size: int, rows: np.ndarray | None = None) -> Iterator[Groups]:
    """The rows in their order, for measuring."""
    rows = np.arange(len(table)) if rows is None else rows
    for start in range(0, len(rows), batch_size):
        yield table.batch(rows[start : start + batch_size])
