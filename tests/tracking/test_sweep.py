"""Sweeps in MLflow: one parent, every cell under it once, and no metric lost however many processes send."""

import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prefopt.tracking import sweep
from prefopt.tracking.channel import channel
from prefopt.tracking.database import store_uri
from prefopt.tracking.events import EVENTS
from prefopt.tracking.following import Following
from prefopt.tracking.mlflow import MlflowTracker
from prefopt.tracking.record import begin, end
from prefopt.tracking.sender import Run, delivered
from prefopt.tracking.sync import deliver

CHECKOUT = Path(__file__).resolve().parents[2]
CELLS, STEPS, METRICS = 16, 300, 5
PARENT = "mlflow.parentRunId"
Fill = Callable[[Path, range], None]

CELL = f"""
import sys
from pathlib import Path
from prefopt.tracking.events import EVENTS, EventFile
from prefopt.tracking.mlflow import MlflowTracker

home, folder, send = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "send"
folder.mkdir()
tracker = MlflowTracker(home=home, send=send, every_s=1, patience_s=300)
tracker.start(folder, folder.name, {{"seed": 0}}, {{"cell": folder.name}}, home / "sweeps" / "grid")
events = EventFile(folder / EVENTS)
for step in range({STEPS}):
    events.write(step, {{f"m{{k}}": step + k / 10 for k in range({METRICS})}})
events.close()
tracker.finish("FINISHED")
print(sorted({{"mlflow", "sqlalchemy"}} & set(sys.modules)))
"""


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """A sweep's directory, begun."""
    folder = tmp_path / "sweeps" / "grid"
    sweep.begin(folder, "grid", {"method": "dpo,rdpo"}, {"sweep": "grid"}, "prefopt")
    return folder


@pytest.fixture
def following(tmp_path: Path) -> Iterator[Following]:
    yield Following(tmp_path, every_s=0.2)
    channel(tmp_path).process.kill()


def cells(home: Path, how: str) -> list[Path]:
    """Sixteen processes, each a cell of the sweep, together; their directories."""
    folders = [home / f"cell{number}" for number in range(CELLS)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CELL, home, folder, how],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for folder in folders
    ]
    assert [process.communicate() for process in processes] == [("[]\n", "")] * CELLS
    return folders


def check_all_is_there(view: Any, home: Path, grid: Path, folders: list[Path]) -> None:
    """Counted in the database: every metric of every step of every cell, once, and one parent."""
    with sqlite3.connect(home / "mlflow.db") as database:
        counts = database.execute("SELECT run_uuid, key, count(*), min(step), max(step) FROM metrics GROUP BY 1, 2")
        rows = counts.fetchall()
    assert {row[2:] for row in rows} == {(STEPS, 0, STEPS - 1)}
    assert Counter(row[0] for row in rows) == {view.run(folder).info.run_id: METRICS for folder in folders}
    parent = view.run(grid)
    assert [view.run(folder).data.tags[PARENT] for folder in folders] == [parent.info.run_id] * len(folders)
    assert {run.info.status for run in view.runs()} == {"FINISHED"}
    assert len(view.runs()) == len(folders) + 1
    assert view.run(grid).data.params == {"method": "dpo,rdpo"}


def test_sixteen_processes_on_a_fresh_store_lose_no_metric_and_make_one_parent(
    tmp_path: Path, grid: Path, view: Any
) -> None:
    folders = cells(tmp_path, "send")
    sweep.end(grid, "FINISHED")
    assert deliver([grid], tmp_path, store_uri(tmp_path)) == {grid: None}
    check_all_is_there(view(store_uri(tmp_path)), tmp_path, grid, folders)


def test_one_process_sends_for_sixteen_that_only_write(
    tmp_path: Path, grid: Path, following: Following, view: Any
) -> None:
    folders = [tmp_path / f"cell{number}" for number in range(CELLS)]
    following.add(grid, *folders)
    assert cells(tmp_path, "write") == folders
    sweep.end(grid, "FINISHED")
    assert set(following.finish([*folders, grid], 300).values()) == {None}
    check_all_is_there(view(store_uri(tmp_path)), tmp_path, grid, folders)
    assert all(delivered(folder, store_uri(tmp_path)) for folder in [grid, *folders])


def test_a_followed_run_is_seen_while_it_goes_on_and_again_after_a_requeue(
    tmp_path: Path, grid: Path, following: Following, fill: Fill, until: Any, view: Any
) -> None:
    folder = tmp_path / "cell"
    following.add(grid, folder)
    folder.mkdir()
    first, second = (MlflowTracker(home=tmp_path, send=False) for _ in range(2))
    first.start(folder, folder.name, {}, {"slurm.job": "1"}, grid)
    fill(folder / EVENTS, range(50))
    shows = view(store_uri(tmp_path))
    until(lambda: shows.runs(where="attributes.run_name = 'cell'") and shows.steps(folder) == list(range(50)))
    assert shows.run(folder).info.status == "RUNNING"
    first.finish("KILLED")
    until(lambda: shows.run(folder).info.status == "KILLED")

    second.start(folder, folder.name, {}, {"slurm.job": "2"}, grid)
    fill(folder / EVENTS, range(50, 90))
    until(lambda: shows.steps(folder) == list(range(90)))
    assert shows.run(folder).info.status == "RUNNING"
    assert shows.run(folder).data.tags["slurm.job"] == "2"
    second.finish("FINISHED")
    assert following.finish([folder], 300) == {folder: None}
    assert shows.run(folder).info.status == "FINISHED"
    shows.check(folder, range(90))


def test_a_launcher_that_goes_away_leaves_its_runs_running_and_one_that_finishes_calls_the_silent_killed(
    tmp_path: Path, grid: Path, following: Following, fill: Fill, view: Any
) -> None:
    for name in ("going on", "died"):
        (tmp_path / name).mkdir()
        begin(tmp_path / name, "prefopt", name, {}, {}, grid)
        fill(tmp_path / name / EVENTS, range(20))
    following.add(tmp_path / "going on", tmp_path / "died")
    assert following.finish([tmp_path / "died"], 300) == {tmp_path / "died": None}
    channel(tmp_path).pipe.close()
    channel(tmp_path).process.wait()
    statuses = {run.info.run_name: run.info.status for run in view(store_uri(tmp_path)).runs()}
    assert statuses == {"going on": "RUNNING", "died": "KILLED", "grid": "RUNNING"}


def test_what_never_began_keeps_nobody_waiting(tmp_path: Path, following: Following) -> None:
    assert following.finish([tmp_path / "never"], 300) == {tmp_path / "never": None}


def test_what_is_attached_and_adopted_after_the_end_is_sent_with_the_next_delivery(
    tmp_path: Path, grid: Path, record_run: Callable[..., Path], view: Any
) -> None:
    uri, cell = store_uri(tmp_path), record_run(tmp_path / "cell")
    sweep.end(grid, "FINISHED")
    assert deliver([cell, grid], tmp_path, uri) == {cell: None, grid: None}
    assert PARENT not in view(uri).run(cell).data.tags
    sweep.adopt(cell, grid)
    (grid / "report").mkdir()
    (grid / "report" / "index.html").write_text("<p>all well</p>")
    sweep.attach(grid, [grid / "report"])
    assert not delivered(cell, uri) and not delivered(grid, uri)
    assert deliver([cell, grid], tmp_path, uri) == {cell: None, grid: None}
    parent = view(uri).run(grid)
    assert view(uri).run(cell).data.tags[PARENT] == parent.info.run_id
    assert [item.path for item in view(uri).client.list_artifacts(parent.info.run_id, "report")] == [
        "report/index.html"
    ]
    view(uri).check(cell, range(20))

    (grid / "report" / "index.html").write_text("<p>better still</p>")
    sweep.attach(grid, [grid / "report"])
    assert deliver([grid], tmp_path, uri) == {grid: None}
    place = Path(view(uri).run(grid).info.artifact_uri.removeprefix("file://"))
    assert (place / "report" / "index.html").read_text() == "<p>better still</p>"


def test_what_was_attached_and_is_gone_keeps_nothing_else_back(
    tmp_path: Path, grid: Path, record_run: Callable[..., Path], view: Any
) -> None:
    uri, reports = store_uri(tmp_path), [tmp_path / "first", tmp_path / "second"]
    for report in reports:
        report.mkdir()
        (report / "index.html").touch()
    sweep.attach(grid, reports[:1])
    sweep.end(grid, "FINISHED")
    assert deliver([grid], tmp_path, uri) == {grid: None}
    shutil.rmtree(reports[0])
    sweep.attach(grid, reports[1:])
    assert deliver([grid], tmp_path, uri) == {grid: None}
    run = view(uri).run(grid)
    assert {item.path for item in view(uri).client.list_artifacts(run.info.run_id)} == {"first", "second"}
    assert run.info.status == "FINISHED"

    cell = record_run(tmp_path / "cell", artifacts=("gone.txt", "config.yaml"))
    (cell / "config.yaml").touch()
    (trouble,) = deliver([cell], tmp_path, uri).values()
    assert "gone.txt is gone" in str(trouble) and not delivered(cell, uri)
    run = view(uri).run(cell)
    assert [item.path for item in view(uri).client.list_artifacts(run.info.run_id)] == ["config.yaml"]
    assert run.info.status == "FINISHED"


def test_a_copied_tree_is_sent_to_another_store_under_its_parent(
    tmp_path: Path, record_run: Callable[..., Path], view: Any
) -> None:
    sweep.begin(tmp_path / "here" / "sweeps" / "grid", "grid", {}, {}, "prefopt")
    record_run(tmp_path / "here" / "cell", parent="../sweeps/grid")
    there = shutil.copytree(tmp_path / "here", tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    command = [sys.executable, "-m", "prefopt.track", "sync", "--uri", store_uri(there)]
    done = subprocess.run(
        command, cwd=CHECKOUT, env={"PREFOPT_HOME": str(there)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{there}/cell: sent\n{there}/sweeps/grid: sent\n"
    shows = view(store_uri(there))
    assert shows.run(there / "cell").data.tags[PARENT] == shows.run(there / "sweeps" / "grid").info.run_id
    assert len(shows.runs()) == 2


def test_a_parent_is_made_once_by_senders_that_ask_in_turn(
    tmp_path: Path, grid: Path, record_run: Callable[..., Path], view: Any
) -> None:
    sweep.end(grid, "FAILED")
    held = Run(grid, tmp_path, store_uri(tmp_path))
    held.lock.acquire()  # as by a process that sends the sweep itself
    for number in range(3):
        folder = record_run(tmp_path / f"cell{number}", parent="../sweeps/grid")
        assert Run(folder, tmp_path, store_uri(tmp_path)).send() is None
    assert held.send() is None
    end(grid, "FINISHED")
    assert held.send() is None
    assert view(store_uri(tmp_path)).run(grid).info.status == "FINISHED"
