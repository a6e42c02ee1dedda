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
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from prefopt.tracking.events import EVENTS, read
from prefopt.tracking.record import Receipt, Record

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY = "prefopt.key"
METRICS_A_CALL, PARAMS_A_CALL = 1000, 100  # MLflow's limits
PAUSES_S = (0, 1, 2)


class Run:
    """One run on its way to MLflow."""

    def __init__(self, folder: Path, home: Path, uri: str, every_s: float = 0.0) -> None:
        self.folder, self.home, self.uri, self.every_s = folder, home, uri, every_s
        self.lock = FileLock(folder / "mlflow.lock")
        self.receipt: Receipt | None = None
        self.last: dict[str, int] = {}
        self.place = (0, 0)
        self.delivered = False

    def send(self, orphaned: bool = False) -> str | None:
        """Send what is missing; what went wrong, or None. orphaned: who ran it is gone without a word."""
        try:
            self._send("KILLED" if orphaned else "RUNNING")
        except Timeout:
            return "another process is sending it"
        except Exception as error:
            traceback.print_exc()
            self.release()
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        return None

    def release(self) -> None:
        """Forget what MLflow was known to have, and let others send."""
        self.receipt = None
        self.lock.release(force=True)

    def _send(self, unfinished: str) -> None:
        record = Record.load(self.folder)
        if record is None:
            raise FileNotFoundError(f"{self.folder} holds no tracked run")
        client = _client(self.uri)
        if self.receipt is None:
            self.lock.acquire(timeout=0)
            self._open(client, record)
        assert self.receipt is not None
        self._send_events(client, self.receipt.run_id)
        status = unfinished if record.status == "RUNNING" else record.status
        if status != "RUNNING":
            self._close(client, self.receipt, record, status)

    def _open(self, client: "MlflowClient", record: Record) -> None:
        """Find this run in MLflow, or create it, and learn what is there."""
        from mlflow.entities import Param, RunTag

        experiment = _experiment(client, record.experiment, self.home, self.uri)
        found = client.search_runs([experiment], f"tags.`{KEY}` = '{record.key}'", max_results=1)
        run = (
            found[0]
            if found
            else client.create_run(experiment, int(record.started * 1000), {KEY: record.key}, record.name)
        )
        known = run.data.params
        new = [Param(key, value) for key, value in record.params.items() if key not in known]
        changed = [key for key, value in record.params.items() if key in known and known[key] != value]
        tags = record.tags | ({"prefopt.changed": ", ".join(changed)} if changed else {})
        for start in range(0, len(new), PARAMS_A_CALL):
            client.log_batch(run.info.run_id, params=new[start : start + PARAMS_A_CALL])
        client.log_batch(run.info.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        if run.info.status != "RUNNING":
            client.update_run(run.info.run_id, status="RUNNING")
        self.last = {metric.key: metric.step for metric in run.data.to_proto().metrics}
        self.place = (0, 0)
        self.receipt = Receipt(self.uri, experiment, run.info.run_id, "RUNNING", 0)
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
        for artifact in record.artifacts:
            path = self.folder / artifact
            place = os.path.dirname(artifact) if not artifact.startswith("..") else ""
            if path.is_dir():
                client.log_artifacts(receipt.run_id, str(path), os.path.join(place, path.name))
            else:
                client.log_artifact(receipt.run_id, str(path), place or None)
        client.set_terminated(receipt.run_id, status, int((record.ended or time.time()) * 1000))
        replace(receipt, status=status, size=self.place[1]).save(self.folder)
        self.delivered = True
        self.release()


@functools.cache
def _client(uri: str) -> "MlflowClient":
    from mlflow import MlflowClient

    create_store(uri)
    return MlflowClient(tracking_uri=uri)


def create_store(uri: str) -> None:
    """Make the SQLite store of this URI where there is none, once for all processes: whole, or not there."""
    if not uri.startswith("sqlite:///"):
        return
    path = Path(uri.removeprefix("sqlite:///"))
    if path.exists():
        return
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            return
        beside = path.with_suffix(".part")
        beside.unlink(missing_ok=True)
        MlflowClient(tracking_uri=f"sqlite:///{beside}").search_experiments(max_results=1)
        beside.rename(path)


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
    """Send the runs named through `pipe`, (folder, home, uri, every_s, ends), until its other end is gone.

    A run that ends is answered by (folder, what went wrong or None); one that went wrong is tried again.
    """
    runs: dict[Path, Run] = {}
    while True:
        try:
            if not pipe.poll(min((run.every_s for run in runs.values()), default=None)):
                runs = {folder: run for folder, run in runs.items() if run.send() or not run.delivered}
                continue
            folder, home, uri, every_s, ends = pipe.recv()
            if not ends or folder not in runs:
                if folder in runs:
                    runs[folder].release()
                runs[folder] = Run(folder, home, uri, every_s)
            if not ends:
                runs[folder].send()
                continue
            trouble = _insist(runs[folder])
            if trouble is None:
                del runs[folder]
            pipe.send((folder, trouble))
        except (EOFError, ConnectionError):
            break
    for run in runs.values():
        run.send(orphaned=True)


def _insist(run: Run) -> str | None:
    trouble = None
    for pause in PAUSES_S:
        time.sleep(pause)
        trouble = run.send()
        if trouble is None:
            break
    return trouble


def main() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_IGN)  # meant for the run; this process ends when the run has
    os.nice(10)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # trying again is our own business
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
