"""MLflow as a run sees it: told at the start and at the end, and never in the way between.

All talk with MLflow is done by a second process (`sender`), which reads the run's event file. So a step costs a run
one line in a file, MLflow's imports and database take nothing from it, and no failure of theirs is a failure of it.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefopt.tracking import record
from prefopt.tracking.channel import Order, channel
from prefopt.tracking.database import store_uri
from prefopt.tracking.record import Ending

log = logging.getLogger(__name__)

HURRIED_S = 15.0
"""The longest that a run waits for MLflow that was told to stop: its job may be killed any moment."""


class NoTracker:
    """Tracks nothing."""

    def __init__(self, *, home: Path) -> None:
        pass

    def start(
        self, run_dir: Path, name: str, params: Mapping[str, Any], tags: Mapping[str, str], parent: Path | None = None
    ) -> None:
        pass

    def finish(self, status: Ending, artifacts: Sequence[Path] = ()) -> None:
        pass


class MlflowTracker:
    """Shows one run in MLflow; one that starts again in the same directory goes on as the same MLflow run.

    home: where the local store and its artifacts lie. uri: of another store or a server.
    send: false leaves the sending to somebody else. every_s: seconds between two batches.
    patience_s: the longest that the end of a run waits for MLflow; a run that was told to stop waits for seconds only.
    """

    def __init__(
        self,
        *,
        home: Path,
        uri: str | None = None,
        experiment: str = "prefopt",
        send: bool = True,
        every_s: float = 20.0,
        patience_s: float = 60.0,
    ) -> None:
        self.home, self.experiment, self.send = home.absolute(), experiment, send
        self.uri = uri or store_uri(self.home)
        self.every_s, self.patience_s = every_s, patience_s
        self._order: Order | None = None

    def start(
        self, run_dir: Path, name: str, params: Mapping[str, Any], tags: Mapping[str, str], parent: Path | None = None
    ) -> None:
        """Begin, or go on; metrics are read from `EVENTS` in `run_dir` as they come. parent: the sweep's directory."""
        order = self._order = Order((run_dir.absolute(),), self.home, self.uri, self.every_s, owned=True)
        record.begin(run_dir.absolute(), self.experiment, name, params, tags, parent and parent.absolute())
        if self.send:
            channel(self.home).begin(order)

    def finish(self, status: Ending, artifacts: Sequence[Path] = ()) -> None:
        """Send the rest, wait for it within bounds, and warn where it did not arrive.

        The event file is flushed by then. Without a start, and a second time, this does nothing.
        """
        order, self._order = self._order, None
        if order is None:
            return
        (run_dir,) = order.folders
        record.end(run_dir, status, [path.absolute() for path in artifacts])
        patience_s = min(self.patience_s, HURRIED_S) if status == "KILLED" else self.patience_s
        trouble = channel(self.home).end(order, patience_s)[run_dir] if self.send else None
        if trouble is not None:
            log.warning(
                "MLflow at %s does not have all of this run: %s\n"
                "  nothing is lost; send it later: python -m prefopt.track sync --uri %s %s",
                self.uri,
                trouble,
                self.uri,
                run_dir,
            )
