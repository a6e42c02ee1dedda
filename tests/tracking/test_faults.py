"""MLflow killed, stopped, locked or too new while a run trains: the run goes on, and MLflow has every step later."""

import logging
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefopt.errors import PrefoptError
from prefopt.tracking import mlflow, ui
from prefopt.tracking.channel import Order, Troubles, channel
from prefopt.tracking.database import store_uri
from prefopt.tracking.events import EVENTS, read
from prefopt.tracking.mlflow import MlflowTracker
from prefopt.tracking.record import Ending
from prefopt.tracking.sync import deliver

CHECKOUT = Path(__file__).resolve().parents[2]
Fill = Callable[[Path, range], None]

RUN = """
import sys
from pathlib import Path
from prefopt.tracking.events import EVENTS, EventFile
from prefopt.tracking.mlflow import MlflowTracker

home, uri = Path(sys.argv[1]), sys.argv[2]
tracker = MlflowTracker(home=home, uri=uri, every_s=0.05, patience_s=0.5)
tracker.start(home / "run", "run", {"seed": 0}, {})
events = EventFile(home / "run" / EVENTS)
for step in range(2000):
    events.write(step, {f"m{k}": step + k / 10 for k in range(5)})
events.close()
tracker.finish("FINISHED")
"""


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def started(run_dir: Path, uri: str) -> MlflowTracker:
    tracker = MlflowTracker(home=run_dir.parent, uri=uri, every_s=0.05, patience_s=300)
    tracker.start(run_dir, run_dir.name, {"seed": 0}, {})
    return tracker


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("prefopt")]


def test_a_server_killed_in_mid_run_and_brought_back_has_every_step(
    run_dir: Path, serving: Any, fill: Fill, until: Any, view: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server = serving()
    server.start()
    tracker, shows, log = started(run_dir, server.uri), view(server.uri), channel(run_dir.parent).log
    fill(run_dir / EVENTS, range(100))
    until(lambda: shows.runs() and shows.steps(run_dir) == list(range(100)))
    server.kill()
    fill(run_dir / EVENTS, range(100, 250))
    until(lambda: "refused" in log.read_text())
    server.start()
    until(lambda: shows.steps(run_dir) == list(range(250)))
    fill(run_dir / EVENTS, range(250, 400))
    server.kill()
    fill(run_dir / EVENTS, range(400, 500))
    server.start()
    tracker.finish("FINISHED")
    shows.check(run_dir, range(500))
    assert shows.run(run_dir).info.status == "FINISHED"
    assert warnings(caplog) == []


def test_a_server_that_hangs_holds_up_no_step_and_no_end(
    tmp_path: Path, run_dir: Path, serving: Any, until: Any, view: Any
) -> None:
    server = serving()
    server.start()
    server.signal(signal.SIGSTOP)
    done = subprocess.run(
        [sys.executable, "-c", RUN, tmp_path, server.uri], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [event.step for event in read(run_dir / EVENTS)] == list(range(2000))
    server.signal(signal.SIGCONT)
    shows = view(server.uri)
    until(lambda: shows.runs(where="attributes.status = 'FINISHED'"))
    shows.check(run_dir, range(2000))


@pytest.mark.parametrize(("ending", "waits_s"), [("KILLED", mlflow.HURRIED_S), ("FINISHED", 300), ("FAILED", 300)])
def test_only_a_run_that_may_be_killed_any_moment_does_not_wait_for_mlflow(
    run_dir: Path, ending: Ending, waits_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    class Hanging:
        def begin(self, order: Order) -> None:
            pass

        def end(self, order: Order, patience_s: float) -> Troubles:
            waited.append(patience_s)
            return dict.fromkeys(order.folders, "hangs")

    monkeypatch.setattr(mlflow, "channel", lambda home: Hanging())
    started(run_dir, "http://127.0.0.1:9").finish(ending)
    assert waited == [waits_s]


def test_a_locked_database_holds_up_no_step(run_dir: Path, fill: Fill, until: Any, view: Any) -> None:
    tracker = started(run_dir, store_uri(run_dir.parent))
    fill(run_dir / EVENTS, range(100))
    until((run_dir.parent / "mlflow.db").exists)
    shows = view(tracker.uri)
    until(lambda: shows.runs() and shows.steps(run_dir) == list(range(100)))
    locking = sqlite3.connect(run_dir.parent / "mlflow.db", isolation_level=None)
    locking.execute("BEGIN EXCLUSIVE")
    fill(run_dir / EVENTS, range(100, 2000))
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        sqlite3.connect(run_dir.parent / "mlflow.db", timeout=0).execute("SELECT count(*) FROM metrics")
    locking.execute("ROLLBACK")
    tracker.finish("FINISHED")
    shows.check(run_dir, range(2000))


def test_a_database_that_stays_locked_is_named_and_gets_all_of_it_later(
    tmp_path: Path, record_run: Callable[..., Path], view: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = record_run(tmp_path / "first"), record_run(tmp_path / "second")
    assert deliver([first], tmp_path, store_uri(tmp_path)) == {first: None}
    locking = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    locking.execute("BEGIN EXCLUSIVE")
    (trouble,) = deliver([second], tmp_path, store_uri(tmp_path)).values()
    assert trouble is not None and "database is locked" in trouble
    locking.execute("ROLLBACK")
    assert deliver([second], tmp_path, store_uri(tmp_path)) == {second: None}
    view(store_uri(tmp_path)).check(second, range(20))


@pytest.mark.parametrize(
    ("revision", "says", "mend"),
    [
        ("f00dfacecafe", "newer MLflow than the", "install the MLflow that wrote it, or choose another store"),
        ("451aebb31d03", "older MLflow than the", "python -m mlflow db upgrade"),
    ],
)
def test_a_store_of_another_mlflow_is_named_and_the_run_goes_on(
    run_dir: Path,
    record_run: Callable[..., Path],
    fill: Fill,
    caplog: pytest.LogCaptureFixture,
    revision: str,
    says: str,
    mend: str,
) -> None:
    home = run_dir.parent
    assert set(deliver([record_run(home / "before")], home, store_uri(home)).values()) == {None}
    with sqlite3.connect(home / "mlflow.db") as database:
        ((ours,),) = database.execute("SELECT version_num FROM alembic_version").fetchall()
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    tracker = started(run_dir, store_uri(home))
    fill(run_dir / EVENTS, range(30))
    with caplog.at_level(logging.WARNING):
        tracker.finish("FINISHED")
    (warning,) = warnings(caplog)
    assert says in warning and f"(schema {revision})" in warning and mend in warning
    assert str(home / "mlflow.db") in warning
    with pytest.raises(PrefoptError, match=says):
        ui.ui(home, 0)

    with sqlite3.connect(home / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (ours,))
    channel(home).process.kill()
    channel(home).process.wait()
    assert deliver([run_dir], home, store_uri(home)) == {run_dir: None}


def test_a_run_in_trouble_says_so_once_in_the_log_of_its_sender(
    tmp_path: Path, record_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from prefopt.tracking.sender import Run

    run = Run(record_run(tmp_path / "run", artifacts=("missing.txt",)), tmp_path, store_uri(tmp_path))
    troubles = [run.send() for _ in range(5)]
    assert len(set(troubles)) == 1 and "missing.txt" in str(troubles[0])
    assert capsys.readouterr().err.count("Traceback (most recent call last)") == 1
