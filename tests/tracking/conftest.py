"""What the tests of tracking share: event files, a look into MLflow, and MLflow servers that can be hurt."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prefopt.tracking.events import EVENTS, EventFile
from prefopt.tracking.record import Record

CHECKOUT = Path(__file__).resolve().parents[2]


def _fill(path: Path, steps: range) -> None:
    """Five metrics a step, as a run writes them."""
    events = EventFile(path)
    for step in steps:
        events.write(step, {f"m{k}": step + k / 10 for k in range(5)})
    events.close()


@pytest.fixture(scope="session")
def fill() -> Callable[[Path, range], None]:
    return _fill


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], object], float], None]:
    return _until


def _until(true: Callable[[], object], seconds: float = 180.0) -> None:
    """Wait for something to become true, within bounds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.05)


class View:
    """What MLflow shows."""

    def __init__(self, uri: str) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=uri)

    def runs(self, experiment: str = "prefopt", where: str = "") -> list[Any]:
        found = self.client.get_experiment_by_name(experiment)
        return list(self.client.search_runs([found.experiment_id], where)) if found else []

    def run(self, folder: Path, experiment: str = "prefopt") -> Any:
        """The run of this directory, which must be there once."""
        (run,) = self.runs(experiment, f"attributes.run_name = '{folder.name}'")
        return run

    def steps(self, folder: Path, metric: str = "m4", experiment: str = "prefopt") -> list[int]:
        run = self.run(folder, experiment)
        return sorted(point.step for point in self.client.get_metric_history(run.info.run_id, metric))

    def check(self, folder: Path, steps: range, experiment: str = "prefopt") -> None:
        """Every step of `fill` is there once, with its value."""
        run = self.run(folder, experiment)
        for k in range(5):
            history = self.client.get_metric_history(run.info.run_id, f"m{k}")
            assert sorted((point.step, point.value) for point in history) == [(step, step + k / 10) for step in steps]


@pytest.fixture(scope="session")
def view() -> type[View]:
    return View


@pytest.fixture(scope="session")
def record_run() -> Callable[..., Path]:
    """Writes the files of a run that is over, 20 steps long, and returns its directory."""

    def written(folder: Path, experiment: str = "prefopt", **more: Any) -> Path:
        folder.mkdir(parents=True)
        Record(folder.name, experiment, folder.name, {}, {}, 1.7e9, 1.7e9, "FINISHED", **more).save(folder)
        _fill(folder / EVENTS, range(20))
        return folder

    return written


class Server:
    """A real MLflow server, on loopback."""

    def __init__(self, home: Path, store: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.log = home / "server.log"
        self.command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        self.command += ["--workers", "1", "--backend-store-uri", store]
        self.command += ["--artifacts-destination", str(home / "artifacts")]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )
        _until(self.answers)

    def answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def signal(self, signum: signal.Signals) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signum)

    def kill(self) -> None:
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[[str], Server]]:
    """Makes servers, over SQLite where nothing else is said, and ends them after the test."""
    made: list[Server] = []

    def server(store: str = f"sqlite:///{tmp_path}/server.db") -> Server:
        made.append(Server(tmp_path, store))
        return made[-1]

    yield server
    for one in made:
        one.kill()
