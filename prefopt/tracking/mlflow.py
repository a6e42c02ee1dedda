"""MLflow as a run sees it: told at the start and at the end, and never in the way between.

All talk with MLflow is done by a second process (`sender`), which reads the run's event file. So a step costs a run
one line in a file, MLflow's imports and database take nothing from it, and no failure of theirs is a failure of it.
"""

import functools
import logging
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from prefopt.tracking.record import LONGEST_TAG, Ending, Record, flatten
from prefopt.tracking.telemetry import SWITCHES

log = logging.getLogger(__name__)


class NoTracker:
    """Tracks nothing."""

    def __init__(self, *, home: Path) -> None:
        pass

    def start(
        self,
        run_dir: Path,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: Path | None = None,
    ) -> None:
        pass

    def finish(self, status: Ending, artifacts: Sequence[Path] = ()) -> None:
        pass


class MlflowTracker:
    """Shows one run in MLflow; one that starts again in the same directory goes on as the same MLflow run.

    home: where the local store and its artifacts lie. uri: of another store or a server.
    every_s: seconds between two batches. patience_s: the longest that the end of a run waits for MLflow.
    """

    def __init__(
        self,
        *,
        home: Path,
        uri: str | None = None,
        experiment: str = "prefopt",
        every_s: float = 20.0,
        patience_s: float = 60.0,
    ) -> None:
        self.home, self.experiment = home.absolute(), experiment
        self.uri = uri or store_uri(self.home)
        self.every_s, self.patience_s = every_s, patience_s
        self._run_dir: Path | None = None

    def start(
        self,
        run_dir: Path,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: Path | None = None,
    ) -> None:
        """Begin, or go on; metrics are read from `EVENTS` in `run_dir` as they come."""
        run_dir = self._run_dir = run_dir.absolute()
        before = Record.load(run_dir)
        record = Record(
            key=before.key if before else uuid.uuid4().hex,
            experiment=self.experiment,
            name=name,
            params=flatten(params),
            tags={key: str(value)[:LONGEST_TAG] for key, value in tags.items()},
            started=before.started if before else time.time(),
        )
        record.save(run_dir)
        _sender(self.home).begin((run_dir, self.home, self.uri, self.every_s))

    def finish(self, status: Ending, artifacts: Sequence[Path] = ()) -> None:
        """Send the rest, wait for it within bounds, and warn where it did not arrive.

        The event file is flushed by then. Without a start, and a second time, this does nothing.
        """
        run_dir, self._run_dir = self._run_dir, None
        if run_dir is None:
            return
        record = Record.load(run_dir)
        assert record is not None
        paths = tuple(os.path.relpath(path, run_dir) for path in artifacts)
        replace(record, status=status, ended=time.time(), artifacts=paths).save(run_dir)
        trouble = _sender(self.home).end((run_dir, self.home, self.uri, self.every_s), self.patience_s)
        if trouble is not None:
            log.warning(
                "MLflow at %s does not have all of this run: %s\n"
                "  nothing is lost; send it later: python -m prefopt.tracking.sync --uri %s %s",
                self.uri,
                trouble,
                self.uri,
                run_dir,
            )


def store_uri(home: Path) -> str:
    """The local store."""
    return f"sqlite:///{home.absolute() / 'mlflow.db'}"


class _Sender:
    """The other end of `sender.serve`: one process for all runs of this one. It ends when this one does."""

    def __init__(self, home: Path) -> None:
        self.pipe, theirs = Pipe()
        self.answers: dict[Path, str | None] = {}
        self.log = home / "mlflow.log"
        checkout = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([checkout, *filter(None, [os.environ.get("PYTHONPATH")])])
        home.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "prefopt.tracking.sender", str(theirs.fileno())],
                env=SWITCHES | os.environ | {"PYTHONPATH": path},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        theirs.close()

    def begin(self, run: tuple[Any, ...]) -> None:
        with suppress(ConnectionError):  # a sender that died is found, and replaced, at the end
            self.pipe.send((*run, False))

    def end(self, run: tuple[Any, ...], patience_s: float) -> str | None:
        """What went wrong, or None."""
        folder = run[0]
        deadline = time.monotonic() + patience_s
        try:
            self.pipe.send((*run, True))
            while folder not in self.answers:
                if not self.pipe.poll(max(deadline - time.monotonic(), 0)):
                    return f"sending takes longer than {patience_s:g} s; it goes on while it can"
                answered, trouble = self.pipe.recv()
                self.answers[answered] = trouble
        except (ConnectionError, EOFError):
            return f"the process that sends ended; its last words are in {self.log}"
        return self.answers.pop(folder)


@functools.cache
def _sender_of(process: int, home: Path) -> _Sender:
    return _Sender(home)


def _sender(home: Path) -> _Sender:
    """This process's own sender (a fork gets another), alive."""
    sender = _sender_of(os.getpid(), home)
    if sender.process.poll() is None:
        return sender
    _sender_of.cache_clear()
    return _sender_of(os.getpid(), home)
