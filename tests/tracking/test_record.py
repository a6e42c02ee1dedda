"""What is recorded of a run besides its metrics, and by what."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from prefopt.tracking import sweep
from prefopt.tracking.environment import environment, git
from prefopt.tracking.mlflow import MlflowTracker, NoTracker
from prefopt.tracking.record import RECORD, Record, flatten
from prefopt.tracking.telemetry import SWITCHES, silence

CHECKOUT = Path(__file__).resolve().parents[2]


def test_params_are_flat_strings_of_bounded_length() -> None:
    nested = {"noise": {"rate": 0.2, "kind": "flip"}, "layers": [1, 2], "clip": None, "long": "x" * 9000, "none": {}}
    assert flatten(nested) == {
        "noise.rate": "0.2",
        "noise.kind": "flip",
        "layers": "[1, 2]",
        "clip": "None",
        "long": "x" * 6000,
        "none": "{}",
    }


def test_the_environment_is_json_and_says_what_matters() -> None:
    facts = json.loads(json.dumps(environment()))
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["packages"]["torch"]
    assert facts["cpus"] >= 1


def test_git_tells_commit_and_changes_of_this_checkout_only(tmp_path: Path) -> None:
    nothing = {"commit": None, "dirty": None}
    assert git(tmp_path) == nothing
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    assert git(tmp_path) == nothing
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", tmp_path, *identity, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    clean = git(tmp_path)
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "new.py").touch()
    assert git(tmp_path) == clean | {"dirty": True}
    assert git(tmp_path / "installed") == nothing


def test_silence_switches_telemetry_off_and_respects_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SWITCHES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISABLE_TELEMETRY", "yes")
    silence()
    assert {name: os.environ[name] for name in SWITCHES} == SWITCHES | {"DISABLE_TELEMETRY": "yes"}


def test_a_run_imports_neither_mlflow_nor_matplotlib() -> None:
    program = (
        "import sys, prefopt.tracking.mlflow, prefopt.tracking.environment, prefopt.evaluation.figures\n"
        "print({'mlflow', 'matplotlib', 'torch', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_tracking_configs_give_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    given = {
        path.stem: instantiate(OmegaConf.load(path), home=tmp_path)
        for path in (CHECKOUT / "conf" / "tracking").glob("*.yaml")
    }
    assert {name: type(tracker) for name, tracker in given.items()} == {"mlflow": MlflowTracker, "none": NoTracker}
    assert given["mlflow"].uri == f"sqlite:///{tmp_path}/mlflow.db"


def test_no_tracker_leaves_nothing(tmp_path: Path) -> None:
    tracker = NoTracker(home=tmp_path)
    tracker.start(tmp_path, "run", {}, {})
    tracker.finish("FINISHED", [])
    assert list(tmp_path.iterdir()) == []


def quiet(home: Path, run_dir: Path, parent: Path | None = None, **tags: str) -> MlflowTracker:
    """A run that only writes its files, begun."""
    run_dir.mkdir(exist_ok=True)
    tracker = MlflowTracker(home=home, send=False)
    tracker.start(run_dir, run_dir.name, {"seed": 0}, tags, parent)
    return tracker


def recorded(folder: Path) -> Record:
    record = Record.load(folder)
    assert record is not None
    return record


def test_who_does_not_send_writes_files_only(tmp_path: Path) -> None:
    quiet(tmp_path, tmp_path / "run").finish("FINISHED", [tmp_path / "run" / "config.yaml"])
    assert {path.name for path in tmp_path.rglob("*")} - {"run"} == {RECORD, "tracking.lock"}
    record = recorded(tmp_path / "run")
    assert (record.status, record.artifacts, record.parent) == ("FINISHED", ("config.yaml",), None)


def test_a_run_that_goes_on_stays_the_same(tmp_path: Path) -> None:
    quiet(tmp_path, tmp_path / "run", restarts="0").finish("KILLED", [tmp_path / "run" / "a"])
    first = recorded(tmp_path / "run")
    quiet(tmp_path, tmp_path / "run", restarts="1")
    assert recorded(tmp_path / "run") == replace(first, status="RUNNING", ended=None, tags={"restarts": "1"})


def test_a_record_of_an_older_version_is_read(tmp_path: Path) -> None:
    quiet(tmp_path, tmp_path / "run")
    path = tmp_path / "run" / RECORD
    older = json.loads(path.read_text())
    del older["parent"], older["edition"]
    path.write_text(json.dumps(older))
    before = recorded(tmp_path / "run")
    quiet(tmp_path, tmp_path / "run")
    assert recorded(tmp_path / "run") == before


def test_a_cell_knows_its_sweep_by_a_path_that_a_copied_tree_keeps(tmp_path: Path) -> None:
    grid, run = tmp_path / "sweeps" / "grid", tmp_path / "run"
    sweep.begin(grid, "grid", {"method": "dpo,rdpo"}, {"sweep": "grid"}, "study")
    quiet(tmp_path, run, grid)
    assert recorded(run).parent == "../sweeps/grid"
    quiet(tmp_path, run)
    assert recorded(run).parent == "../sweeps/grid"
    parent = recorded(grid)
    assert (parent.experiment, parent.params, parent.status) == ("study", {"method": "dpo,rdpo"}, "RUNNING")
    (grid / "report.html").touch()
    sweep.attach(grid, [grid / "report.html"])
    sweep.end(grid, "FINISHED")
    sweep.attach(grid, [grid / "report.html", tmp_path / "table.csv"])
    assert recorded(grid).status == "FINISHED"
    assert recorded(grid).artifacts == ("report.html", "../../table.csv")
    sweep.begin(grid, "grid", {}, {}, "study")
    assert recorded(grid) == replace(
        parent, params={}, tags={}, artifacts=("report.html", "../../table.csv"), edition=2
    )


def test_only_a_run_without_a_sweep_is_adopted(tmp_path: Path) -> None:
    quiet(tmp_path, tmp_path / "alone")
    quiet(tmp_path, tmp_path / "cell", tmp_path / "sweeps" / "first")
    for name in ("alone", "cell"):
        sweep.adopt(tmp_path / name, tmp_path / "sweeps" / "second")
    assert recorded(tmp_path / "alone").parent == "../sweeps/second"
    assert recorded(tmp_path / "cell").parent == "../sweeps/first"


def test_what_is_not_tracked_stays_so(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        sweep.attach(folder, [tmp_path / "a"])
        sweep.adopt(folder, tmp_path / "grid")
        sweep.end(folder, "KILLED")
    assert {path.name for path in tmp_path.rglob("*")} <= {"tracking.lock"}


def test_many_processes_attach_to_one_record_and_none_is_lost(tmp_path: Path) -> None:
    sweep.begin(tmp_path / "grid", "grid", {}, {}, "study")
    program = "import sys; from pathlib import Path; from prefopt.tracking.sweep import attach\n"
    program += "folder = Path(sys.argv[1])\nfor k in range(20):\n"
    program += "    path = folder / f'{sys.argv[2]}-{k}'\n    path.touch()\n    attach(folder, [path])"
    racing = [
        subprocess.Popen([sys.executable, "-c", program, tmp_path / "grid", str(number)], cwd=CHECKOUT)
        for number in range(4)
    ]
    assert [process.wait() for process in racing] == [0, 0, 0, 0]
    assert sorted(recorded(tmp_path / "grid").artifacts) == sorted(f"{n}-{k}" for n in range(4) for k in range(20))
