"""The process that sends runs to MLflow, from their files.

MLflow itself says what it has, the files say what there is, and the difference is sent: so it does not matter which
of the two was interrupted, rewound, copied or sent twice. Nothing here is needed to train.
"""

import functools
import os
import signal
import sys
import time
import traceback
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock, Timeout

from prefopt.errors import PrefoptError
from prefopt.tracking.channel import Order, Troubles
from prefopt.tracking.database import prepare
from prefopt.tracking.events import EVENTS, read
from prefopt.tracking.record import Receipt, Record

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY, PARENT = "prefopt.key", "mlflow.parentRunId"
METRICS_A_CALL, PARAMS_A_CALL = 1000, 100  # MLflow's limits
PAUSES_S = (0, 1, 2)

Unfinished = Literal["RUNNING", "KILLED"]
"""What a run that did not say how it ended is called."""


class Run:
    """One run, or sweep, on its way to MLflow."""

    def __init__(self, folder: Path, home: Path, uri: str) -> None:
        self.folder, self.home, self.uri = folder, home, uri
        self.lock = FileLock(folder / "mlflow.lock")
        self.receipt: Receipt | None = None
        self.described: Record | None = None
        self.last: dict[str, int] = {}
        self.place = (0, 0)
        self.trouble: str | None = None

    def send(self, unfinished: Unfinished = "RUNNING") -> str | None:
        """Send what is missing; what went wrong, or None, also where nothing is tracked yet."""
        before, self.trouble = self.trouble, None
        try:
            self._send(unfinished)
        except Timeout:
            self.trouble = "another process is sending it"
        except Exception as error:
            self.trouble = in_a_line(error)
            if self.trouble != before:
                traceback.print_exc()
            self.release()
        return self.trouble

    def release(self) -> None:
        """Forget what MLflow was known to have, and let others send."""
        self.receipt = None
        self.lock.release(force=True)

    def _send(self, unfinished: Unfinished) -> None:
        record = Record.load(self.folder)
        if record is None or (self.receipt is None and delivered(self.folder, self.uri)):
            return
        if not self.lock.is_locked:
            self.lock.acquire(timeout=0)
        client = _client(self.uri)
        description = replace(record, status="RUNNING", ended=None, artifacts=())
        if self.receipt is None or description != self.described:
            self._open(client, record)
            self.described = description
        assert self.receipt is not None
        self._send_events(client, self.receipt.run_id)
        status = unfinished if record.status == "RUNNING" else record.status
        if status != "RUNNING":
            self._close(client, self.receipt, record, status)

    def _open(self, client: "MlflowClient", record: Record) -> None:
        """Find this run in MLflow, or create it, and learn what is there."""
        from mlflow.entities import Param, RunTag

        run = _placed(client, self.folder, record, self.home, self.uri)
        known = run.data.params
        new = [Param(key, value) for key, value in record.params.items() if key not in known]
        changed = [key for key, value in record.params.items() if key in known and known[key] != value]
        tags = record.tags | ({"prefopt.changed": ", ".join(changed)} if changed else {})
        sweep = self.folder / (record.parent or ".")
        if record.parent is not None and (above := Record.load(sweep)) is not None:
            tags[PARENT] = _placed(client, sweep, above, self.home, self.uri).info.run_id
        for start in range(0, len(new), PARAMS_A_CALL):
            client.log_batch(run.info.run_id, params=new[start : start + PARAMS_A_CALL])
        client.log_batch(run.info.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        if run.info.status != "RUNNING":
            client.update_run(run.info.run_id, status="RUNNING")
        self.last = {metric.key: metric.step for metric in run.data.to_proto().metrics}
        self.place = (0, 0)
        self.receipt = Receipt(self.uri, run.info.experiment_id, run.info.run_id, "RUNNING", 0)
        self.receipt.save(self.folder)

    def _send_events(self, client: "MlflowClient", run_id: str) -> None:
        """Send each metric's steps after the last that MLflow has: steps never fall, so that is all that is missing."""
        from mlflow.entities import Metric

        events = self.folder / EVENTS
        if not events.exists():
            return
        inode, offset = events.stat().st_ino, 0
        if inode == self.place[0]:
            offset = self.place[1]
        waiting: list[Metric] = []
        for event in read(events, offset):
            for name, value in event.metrics.items():
                if event.step > self.last.get(name, -1):
                    self.last[name] = event.step
                    waiting.append(Metric(name, value, int(event.time * 1000), event.step))
            self.place = (inode, event.end)
            while len(waiting) >= METRICS_A_CALL:
                client.log_batch(run_id, metrics=waiting[:METRICS_A_CALL])
                del waiting[:METRICS_A_CALL]
        if waiting:
            client.log_batch(run_id, metrics=waiting)

    def _close(self, client: "MlflowClient", receipt: Receipt, record: Record, status: str) -> None:
        gone = [artifact for artifact in record.artifacts if not (self.folder / artifact).exists()]
        for artifact in (artifact for artifact in record.artifacts if artifact not in gone):
            path = self.folder / artifact
            place = os.path.dirname(artifact) if not artifact.startswith("..") else ""
            if path.is_dir():
                client.log_artifacts(receipt.run_id, str(path), os.path.join(place, path.name))
            else:
                client.log_artifact(receipt.run_id, str(path), place or None)
        client.set_terminated(receipt.run_id, status, int((record.ended or time.time()) * 1000))
        if gone:
            raise PrefoptError(f"{self.folder / gone[0]} is gone", "put it back; all else of this run was sent")
        replace(receipt, status=status, size=self.place[1], record=record.digest).save(self.folder)
        self.release()


def delivered(folder: Path, uri: str) -> bool:
    """Whether the store at `uri` has all of this run, as far as the run's directory tells."""
    record, receipt, events = Record.load(folder), Receipt.load(folder), folder / EVENTS
    if record is None or receipt is None:
        return False
    size = events.stat().st_size if events.exists() else 0
    return (receipt.uri, receipt.record, receipt.size) == (uri, record.digest, size)


def in_a_line(error: Exception) -> str:
    """One line that says what went wrong, and its mend where that is known."""
    if isinstance(error, PrefoptError):
        return f"{error.what}; {error.mend}"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


@functools.cache
def _client(uri: str) -> "MlflowClient":
    from mlflow import MlflowClient

    prepare(uri)
    return MlflowClient(tracking_uri=uri)


def _placed(client: "MlflowClient", folder: Path, record: Record, home: Path, uri: str) -> Any:
    """The MLflow run of this record, made once, however many processes ask for it together."""
    experiment = _experiment(client, record.experiment, home, uri)

    def search() -> list[Any]:
        return client.search_runs([experiment], f"tags.`{KEY}` = '{record.key}'", max_results=1)

    if found := search():
        return found[0]
    with FileLock(folder / "mlflow.new.lock"):
        if found := search():
            return found[0]
        return client.create_run(experiment, int(record.started * 1000), {KEY: record.key}, record.name)


def _experiment(client: "MlflowClient", name: str, home: Path, uri: str) -> str:
    from mlflow.exceptions import MlflowException

    place = None if uri.startswith("http") else (home / "mlartifacts").as_uri()
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=place))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process was faster
            if found is None:
                raise
    return str(found.experiment_id)


def serve(pipe: Connection) -> None:
    """Carry out the orders that come through `pipe` until its other end is gone.

    Runs that end are answered by what went wrong with each, or None; one that went wrong is tried again.
    """
    runs: dict[Path, Run] = {}
    left: dict[Path, Unfinished] = {}
    every_s: float | None = None
    while True:
        try:
            if not pipe.poll(every_s):
                for run in runs.values():
                    run.send()
                continue
            order: Order = pipe.recv()
            every_s = order.every_s if every_s is None else min(every_s, order.every_s)
            for folder in order.folders:
                if folder not in runs or not order.ends:
                    if folder in runs:
                        runs[folder].release()
                    runs[folder] = Run(folder, order.home, order.uri)
                left[folder] = "KILLED" if order.owned else "RUNNING"
            if order.ends:
                troubles = _insist({folder: runs[folder] for folder in order.folders})
                for folder in [folder for folder, trouble in troubles.items() if trouble is None]:
                    del runs[folder]
                pipe.send(troubles)
            else:
                for folder in order.folders:
                    runs[folder].send()
        except (EOFError, ConnectionError):
            break
    for folder, run in runs.items():
        run.send(left[folder])


def _insist(runs: dict[Path, Run]) -> Troubles:
    troubles: Troubles = dict.fromkeys(runs, "not tried")
    for pause in PAUSES_S:
        time.sleep(pause)
        troubles |= {folder: runs[folder].send("KILLED") for folder, trouble in troubles.items() if trouble}
        if not any(troubles.values()):
            break
    return troubles


def main() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_IGN)  # meant for the run; this process ends when the run has
    os.nice(5)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # trying again is our own business
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
