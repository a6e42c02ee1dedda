"""Sweeps as a person sends them, and as the launcher is given them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from launchers.options import Options
from launchers.plan import Sweep, planned
from prefopt.config import CONF
from prefopt.manifest import Manifest
from prefopt.tracking.events import EVENTS, read

SMALL = (
    "dataset=bandit",
    "model=log_linear",
    "trainer=cpu",
    "dataset.pairs=256",
    "dataset.test_pairs=64",
    "rounds=1",
    "evaluation.times=1",
    "evaluation.prompts=16",
    "evaluation.figures=false",
)
PATIENCE_S = 600


class Ended(NamedTuple):
    code: int
    out: str
    said: str


def command(*arguments: str, home: Path) -> subprocess.Popen[str]:
    """A process of prefopt with a home of its own, one thread."""
    environment = {**os.environ, "PREFOPT_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> Ended:
    out, said = process.communicate(timeout=PATIENCE_S)
    return Ended(process.returncode, out, said)


def until(condition: Callable[[], Any], what: str) -> Any:
    """What the condition gives once it is true; fails where that takes too long."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {PATIENCE_S} s for {what}")
        os.sched_yield()
        time.sleep(0.05)
    return found


class Lab:
    """A home, and what is sent from it."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def train(self, *overrides: str) -> Ended:
        return ended(command("prefopt.train", "-m", *SMALL, *overrides, home=self.home))

    def sweep(self, *arguments: str) -> Ended:
        return ended(command("prefopt.sweep", *arguments, home=self.home))

    def manifest(self) -> Manifest:
        """The only sweep of the home."""
        (folder,) = (self.home / "sweeps").iterdir()
        return Manifest.read(folder)


def mlflow_runs(home: Path) -> list[Any]:
    """The runs in the home's own store."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("prefopt")
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def assert_in_mlflow(lab: Lab) -> None:
    """MLflow has every metric of every step of every cell that is done, once."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{lab.home / 'mlflow.db'}")
    ids = {run.info.run_name: run.info.run_id for run in mlflow_runs(lab.home)}
    done = [run for run in lab.manifest().runs() if run.done]
    assert done
    for run in done:
        expected: dict[str, list[int]] = {}
        for event in read(run.folder / EVENTS):
            for name in event.metrics:
                expected.setdefault(name, []).append(event.step)
        assert len(expected) > 5
        for name, steps in expected.items():
            history = client.get_metric_history(ids[run.name], name)
            assert sorted(metric.step for metric in history) == sorted(steps), (run.name, name)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "home")


Planner = Callable[..., Manifest]


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planner:
    """Plans a sweep of these cells into a folder."""
    monkeypatch.setenv("PREFOPT_HOME", str(tmp_path / "home"))

    def planned_here(
        cells: Sequence[Sequence[str]],
        hydra_overrides: Sequence[str] = (),
        base: Sequence[str] = SMALL,
    ) -> Manifest:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            master = compose("config", overrides=["hydra/launcher=local"], return_hydra_config=True)
            options: Any = OmegaConf.to_container(master.hydra.launcher)
            sweep = Sweep(
                folder=tmp_path / "home" / "sweeps" / "here",
                cells=[[*base, *cell] for cell in cells],
                command=[],
                hydra_overrides=list(hydra_overrides),
            )
            return planned(sweep, Options.of(options))

    return planned_here
