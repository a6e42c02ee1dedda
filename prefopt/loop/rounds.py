"""Rounds as Lightning sees them: every epoch asks the method for what it trains on."""

import shutil
from pathlib import Path

import lightning.pytorch as L

from prefopt.engine.loader import Loader
from prefopt.methods.base import Method
from prefopt.table import Table


class Rounds(L.LightningDataModule):
    """Gives round k's loader; own samples are stored before they are used, so that a resumed round goes on with them."""

    def __init__(self, method: Method, data: Table, *, batch_size: int, seed: int, folder: Path) -> None:
        super().__init__()
        self.method, self.data, self.batch_size, self.seed, self.folder = method, data, batch_size, seed, folder

    def train_dataloader(self) -> Loader:
        assert self.trainer is not None
        round = self.trainer.current_epoch
        self.loader = Loader(
            self.collected(round), batch_size=self.batch_size, seed=self.seed, round=round, passes=self.method.passes
        )
        return self.loader

    def collected(self, round: int) -> Table:
        """What round `round` trains on."""
        if self.method.per_round is None:
            table = self.method.collect(self.data, round)
            assert table is not None
            return table
        assert self.trainer is not None
        stored = self.folder / f"{round:05d}"
        if not (self.trainer.fit_loop.restarting and stored.exists()):
            table = self.method.collect(self.data, round)
            assert table is not None
            beside = stored.with_suffix(".part")
            table.save(beside)
            shutil.rmtree(stored, ignore_errors=True)
            beside.rename(stored)
            shutil.rmtree(self.folder / f"{round - 2:05d}", ignore_errors=True)
        return Table.load(stored)
