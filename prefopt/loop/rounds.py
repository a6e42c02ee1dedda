"""Rounds as Lightning sees them: every epoch asks the method for what it trains on."""

from typing import Any

import lightning.pytorch as L
import numpy as np
import torch

from prefopt import ranks
from prefopt.engine.loader import Loader
from prefopt.errors import PrefoptError
from prefopt.methods.base import Method
from prefopt.table import Table


class Rounds(L.LightningDataModule):
    """Gives round k's loader, and has the method collect exactly once a round.

    What a round trains on travels in its checkpoints where it is not the given data: sampled anew by the policy as it
    is in the middle of the round, it would be something else. Where several processes share the run, all collect, as
    sharded weights demand, and learn from what the first one got: samples of two GPUs may differ.
    """

    def __init__(self, method: Method, data: Table, *, batch_size: int, seed: int) -> None:
        super().__init__()
        self.method, self.data, self.batch_size, self.seed = method, data, batch_size, seed
        self.round, self.table = -1, data

    def train_dataloader(self) -> Loader:
        # Lightning asks twice where it takes up a run at the end of a round, before and after it has counted that
        # round, and asks even when no round is left. `processed` is right each time, `current_epoch` is not.
        assert self.trainer is not None and self.trainer.max_epochs is not None
        round = self.trainer.fit_loop.epoch_progress.current.processed
        if self.round != round < self.trainer.max_epochs:
            with self.trainer.precision_plugin.forward_context():
                table = self.method.collect(self.data, round)
            assert table is not None
            self.round, self.table = round, table if table is self.data else ranks.agreed(lambda: table)
        self.loader = Loader(
            self.table,
            batch_size=self.batch_size,
            seed=self.seed,
            round=round,
            passes=self.method.passes,
            mixed=self.method.coupled,
            rows=self.method.rows,
        )
        if (smallest := min(map(len, self.loader.plan))) < ranks.world():
            raise PrefoptError(
                f"{ranks.world()} processes cannot share a batch of {smallest} (batch_size={self.batch_size}, "
                f"{len(self.table)} examples a round)",
                "raise batch_size, or start fewer processes",
            )
        return self.loader

    def state_dict(self) -> dict[str, Any]:
        over = self.loader.given == len(self.loader)
        return {"round": self.round, "table": None if over or self.table is self.data else packed(self.table)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.round = state_dict["round"]
        self.table = self.data if state_dict["table"] is None else unpacked(state_dict["table"])


def packed(table: Table) -> dict[str, Any]:
    """The table as tensors and plain lists, which a checkpoint may hold."""
    arrays = {
        name: values.tolist() if values.dtype.kind in "OU" else torch.from_numpy(np.array(values))
        for name, values in table.arrays().items()
    }
    return {"kind": table.kind.__name__, "arrays": arrays}


def unpacked(state: dict[str, Any]) -> Table:
    """The table that was `packed`."""
    return Table.of_arrays(state["kind"], {name: np.asarray(values) for name, values in state["arrays"].items()})
