"""Showing runs of other processes in MLflow while they go on: what a launcher does that waits for its jobs."""

from collections.abc import Iterable
from pathlib import Path

from prefopt.tracking.channel import Order, Troubles, channel
from prefopt.tracking.database import store_uri


class Following:
    """Sends runs and sweeps that others write, all by one process; they may begin later than they are followed.

    When the following ends, they go on; what MLflow does not have by then is sent by whoever sends it later.
    """

    def __init__(self, home: Path, uri: str | None = None, every_s: float = 20.0) -> None:
        self.home = home.absolute()
        self.uri, self.every_s = uri or store_uri(self.home), every_s

    def add(self, *folders: Path) -> None:
        channel(self.home).begin(self._order(folders))

    def finish(self, folders: Iterable[Path], patience_s: float = 60.0) -> Troubles:
        """Send the rest of runs that are over, a run that did not say so itself as KILLED."""
        return channel(self.home).end(self._order(folders), patience_s)

    def _order(self, folders: Iterable[Path]) -> Order:
        return Order(tuple(folder.absolute() for folder in folders), self.home, self.uri, self.every_s, owned=False)
