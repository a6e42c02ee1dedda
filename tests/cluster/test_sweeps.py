"""Sweeps on the real SLURM: every cell once, real exit codes, and nothing lost to preemption, kills or a dead node."""

import json
import os
import re
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from prefopt.manifest import Manifest
from prefopt.store import Run
from prefopt.tracking.events import EVENTS, read
from tests.launchers.conftest import SMALL, Ended, Lab, assert_in_mlflow, command, ended, mlflow_runs

ON_SLURM = ("hydra/launcher=one_machine",)
LONG = (*SMALL, "dataset.pairs=2560", "rounds=400", "trainer.checkpoint_every_s=0.5")


@pytest.fixture
def lab(tmp_path: Path, slurm: Any) -> Lab:
    return Lab(tmp_path / "home")


def outcome(home: Path, runs: list[Run]) -> dict[str, Any]:
    """What is in this home of each of the runs: final weights, and each metric of each step with its value."""
    return {
        run.name: (
            torch.load(home / run.name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"],
            [(event.step, event.metrics) for event in read(home / run.name / EVENTS)],
        )
        for run in runs
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Bit for bit, and no metric of a step missing or doubled."""
    assert one.keys() == other.keys()
    for run, (weights, events) in one.items():
        assert all(torch.equal(weights[name], other[run][0][name]) for name in weights), run
        assert events == other[run][1], run
        counted = Counter((step, name) for step, metrics in events for name in metrics)
        assert set(counted.values()) == {1}, run


def test_24_cells_each_once_in_mlflow_and_again_only_what_is_missing(lab: Lab) -> None:
    smoke = ("prefopt.train", "-m", "+sweep=smoke", *ON_SLURM, "hydra.launcher.cells_per_job=4")
    first = ended(command(*smoke, home=lab.home))
    assert first.code == 0, first.said
    assert "array of 6 jobs, up to 4 cells each" in first.said
    manifest = lab.manifest()
    assert len(manifest.cells) == 24 and all(run.done for run in manifest.runs())

    runs = mlflow_runs(lab.home)
    (parent,) = [run for run in runs if run.info.run_name == manifest.name]
    cells = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(runs) == 25
    assert sorted(int(run.data.tags["cell"]) for run in cells) == list(range(24))
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert all(run.data.tags["slurm.job"].isdigit() and run.data.tags["restarts"] == "0" for run in cells)

    again = ended(command(*smoke, home=lab.home))
    assert again.code == 0 and "nothing is missing" in again.said
    assert Manifest.read(manifest.folder).jobs == manifest.jobs

    deleted = [manifest.cells[k].run for k in (3, 11, 23)]
    for run in deleted:
        manifest.stored(run).results.unlink()
    resumed = lab.sweep("resume", manifest.name)
    assert resumed.code == 0, resumed.said
    sent = [run for job in Manifest.read(manifest.folder).jobs[len(manifest.jobs) :] for run in job.runs]
    assert sent == deleted
    restarts = {cell.run: manifest.stored(cell.run).status()["restarts"] for cell in manifest.cells}
    assert {run for run, count in restarts.items() if count} == set(deleted)
    assert len(mlflow_runs(lab.home)) == 25


def test_a_failed_cell_is_failed_for_slurm_and_says_why(lab: Lab, slurm: Any) -> None:
    result = lab.train("optimizer.lr=0.05,-1", *ON_SLURM, "hydra.launcher.preflight=false")
    assert result.code == 1
    manifest = lab.manifest()
    good, bad = manifest.runs()
    assert good.done and bad.status()["state"] == "failed"
    states = [slurm.job(job.id) for job in manifest.jobs]
    assert [state["JobState"] for state in states] == ["COMPLETED", "FAILED"]
    assert states[1]["ExitCode"] == "1:0"
    (log,) = (manifest.folder / "jobs").glob(f"{manifest.jobs[1].id}_0_log.out")
    for said in (result.said, log.read_text(), (bad.folder / "log.txt").read_text()):
        assert "Invalid learning rate" in said
    assert "Traceback" in log.read_text()


def test_a_job_that_is_cancelled_by_hand_stays_cancelled(lab: Lab, slurm: Any) -> None:
    quietly = ("hydra.launcher.wait=false", "hydra.launcher.preflight=false")
    sent = ended(command("prefopt.train", "-m", *LONG, "seed=0,1", *ON_SLURM, *quietly, home=lab.home))
    assert sent.code == 0, sent.said
    manifest = lab.manifest()
    slurm.until(lambda: len(running(manifest.runs(), restarts=0)) == 2, 60, "both cells to train")
    first, last = (job.id for job in manifest.jobs)
    subprocess.run(["scancel", last], check=True)
    slurm.until(lambda: slurm.job(last)["JobState"] == "CANCELLED", 30, "the last job to be cancelled")
    assert slurm.job(first)["JobState"] == "RUNNING"
    assert "1 jobs told to stop" in lab.sweep("cancel", manifest.name).out
    slurm.until(lambda: slurm.job(first)["JobState"] == "FAILED", 30, "the first job to leave")
    assert [run.status()["state"] for run in manifest.runs()] == ["interrupted"] * 2


def test_a_shared_stage_is_trained_once_and_cells_wait_for_it_in_the_queue(lab: Lab, slurm: Any) -> None:
    text = ("model=tiny", "dataset=reviews", "dataset.pairs=64", "dataset.demonstrations=64", "dataset.test_pairs=16")
    tiny = ("model.hidden_size=16", "model.heads=2", "rounds=1", "trainer=cpu", "evaluation.prompts=4")
    cells = ("method=dpo,rdpo", "evaluation.times=1", "evaluation.figures=false", "hydra.launcher.preflight=false")
    result = ended(command("prefopt.train", "-m", *text, *tiny, *cells, *ON_SLURM, home=lab.home))
    assert result.code == 0, result.said
    manifest = lab.manifest()
    (stage,) = manifest.stages
    assert manifest.stored(stage.run).status()["restarts"] == 0
    assert [job.runs for job in manifest.jobs] == [(stage.run,), *((cell.run,) for cell in manifest.cells)]
    assert "shared  sft-" in result.said and "stages that cells share: 1 job" in result.said
    sft = [folder for folder in lab.home.iterdir() if folder.name.startswith("sft-")]
    assert [folder.name for folder in sft] == [stage.run]


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("hydra.launcher.partition=lo", r"partition=lo: there is no such partition\n  mend: choose low"),
        ("hydra.launcher.timeout_min=600", "partition low ends jobs after 60 minutes"),
        ("hydra.launcher.timeout_min=3", "leaves no time: a run is told to save 2 minutes before"),
        ("hydra.launcher.cpus_per_task=999", "SLURM says no"),
        ("hydra.launcher.tasks_per_node=2", r"cell 0 has trainer.devices=1 .* 2 tasks on each of 1 nodes"),
        ("hydra.launcher.setup=[exit 7]", "a node cannot run"),
    ],
)
def test_what_would_fail_in_every_job_is_refused_before_any_is_queued(lab: Lab, option: str, says: str) -> None:
    result = lab.train("method=dpo,rdpo", *ON_SLURM, option)
    assert result.code == 2
    assert re.search(says, result.said), result.said
    assert lab.manifest().jobs == ()


@pytest.mark.parametrize(
    ("hidden", "says"), [("probe", "does not see"), ("lock", "does not see the locks of this machine")]
)
def test_a_folder_that_nodes_do_not_share_is_refused(lab: Lab, hidden: str, says: str) -> None:
    """What another file system would do to the node is done by its set-up."""
    unshared = f"hydra.launcher.setup=['rm {lab.home}/sweeps/*/{hidden}']"
    result = lab.train("method=dpo,rdpo", *ON_SLURM, unshared)
    assert result.code == 2
    assert says in result.said and "set PREFOPT_HOME" in result.said, result.said
    assert lab.manifest().jobs == ()


def test_nothing_is_lost_to_preemption_kills_and_a_dead_node(lab: Lab, slurm: Any, tmp_path: Path) -> None:
    eight = ("prefopt.train", "-m", *LONG, "method=dpo,rdpo", "seed=0,1,2,3")
    sweep = command(*eight, *ON_SLURM, "hydra.launcher.array_parallelism=8", home=lab.home)
    slurm.until(lambda: len(list(lab.home.glob("*/checkpoints/last.ckpt"))) == 8, 180, "eight cells to train")
    runs = lab.manifest().runs()
    slurm.preempt()
    slurm.until(lambda: len(running(runs, restarts=1)) >= 6, 120, "six preempted cells to go on")

    killed = running(runs, restarts=1)[:2]
    for run in killed:
        os.kill(run.status()["pid"], signal.SIGKILL)
    node = slurm.nodes[1]
    dead = [run for run in running(runs, restarts=1) if run.status()["host"] == node.name and run not in killed]
    assert dead
    node.kill()
    node.start()

    result: Ended = ended(sweep)
    assert result.code == 0, result.said
    lost = " ".join(re.findall(r"lost: (.*); sent again", result.said))
    assert {run.name for run in killed} == set(lost.replace(",", " ").split())
    assert all(run.status()["restarts"] >= 2 for run in [*killed, *dead])
    whole = Lab(tmp_path / "whole")
    assert ended(command(*eight, home=whole.home)).code == 0
    assert_same(outcome(lab.home, runs), outcome(whole.home, runs))
    assert {run.info.status for run in mlflow_runs(lab.home)} == {"FINISHED"}
    assert_in_mlflow(lab)


def test_cells_side_by_side_in_one_job_lose_nothing_to_preemption_and_a_kill(
    lab: Lab, slurm: Any, tmp_path: Path
) -> None:
    packed = ("hydra.launcher.cells_per_job=3", "hydra.launcher.at_once=2", "hydra.launcher.preflight=false")
    sweep = command("prefopt.train", "-m", *LONG, "seed=0,1,2", *ON_SLURM, *packed, home=lab.home)
    slurm.until(lambda: len(list(lab.home.glob("*/checkpoints/last.ckpt"))) == 2, 180, "two cells to train")
    runs = lab.manifest().runs()
    assert len({run.status()["pid"] for run in running(runs, restarts=0)}) == 2
    slurm.preempt()
    slurm.until(lambda: len(running(runs, restarts=1)) == 2, 180, "both preempted cells to go on")
    killed, other = running(runs, restarts=1)
    os.kill(killed.status()["pid"], signal.SIGKILL)

    result = ended(sweep)
    assert result.code == 0, result.said
    assert "1 job, up to 3 cells each, 2 at a time" in result.said
    assert f"lost: {killed.name}; sent again" in result.said
    assert (killed.status()["restarts"], other.status()["restarts"]) == (2, 1)
    alone = Lab(tmp_path / "alone")
    for seed in range(3):
        assert ended(command("prefopt.train", *LONG, f"seed={seed}", home=alone.home)).code == 0
    assert_same(outcome(lab.home, runs), outcome(alone.home, runs))


def test_cells_that_train_as_one_in_a_job_begin_anew_when_it_is_preempted_and_end_as_they_would_alone(
    lab: Lab, slurm: Any, tmp_path: Path
) -> None:
    packed = ("hydra.launcher.cells_per_job=3", "hydra.launcher.stack=true", "hydra.launcher.preflight=false")
    longer = (*LONG, "rounds=1200")
    sweep = command("prefopt.train", "-m", *longer, "seed=0,1,2", *ON_SLURM, *packed, home=lab.home)
    slurm.until(lambda: len(list(lab.home.glob("*/metrics.jsonl"))) == 3, 180, "three cells to train")
    runs = lab.manifest().runs()
    assert len({run.status()["pid"] for run in runs}) == 1
    slurm.preempt()
    result = ended(sweep)
    assert result.code == 0, result.said
    assert (
        "1 job, up to 3 cells each; exact ones that are alike, and adapters of one model, train as one" in result.said
    )
    assert [(run.status()["restarts"], run.checkpoints.exists()) for run in runs] == [(1, False)] * 3
    alone = Run(tmp_path / "alone" / runs[0].name)
    assert ended(command("prefopt.train", *longer, "seed=0", home=alone.folder.parent)).code == 0
    stacked, expected = (json.loads(run.results.read_text())["figures"] for run in (runs[0], alone))
    assert stacked == pytest.approx(expected, rel=1e-9, abs=1e-12)


def running(runs: list[Any], restarts: int) -> list[Any]:
    """Those at work that were taken up again so many times, and have a checkpoint to go on from."""
    told = {run: run.status() for run in runs if (run.checkpoints / "last.ckpt").exists()}
    return [run for run, status in told.items() if (status["state"], status["restarts"]) == ("running", restarts)]


def test_two_nodes_together_equal_one_process(lab: Lab, slurm: Any, tmp_path: Path) -> None:
    together = ("trainer=ddp", "trainer.devices=1", "trainer.num_nodes=2")
    nodes = ("hydra.launcher.nodes=2", "hydra.launcher.tasks_per_node=1", "hydra.launcher.preflight=false")
    cells = ("method=dpo,rdpo", "dataset.pairs=2048", "rounds=3", "trainer.log_every=1")
    small = tuple(override for override in SMALL if override != "trainer=cpu")
    result = ended(command("prefopt.train", "-m", *small, *cells, *together, *ON_SLURM, *nodes, home=lab.home))
    assert result.code == 0, result.said
    alone = Lab(tmp_path / "alone")
    assert alone.train(*cells).code == 0
    for two, one in zip(lab.manifest().runs(), alone.manifest().runs(), strict=True):
        curves = [
            [(event.step, event.metrics["loss"]) for event in read(run.folder / EVENTS) if "loss" in event.metrics]
            for run in (two, one)
        ]
        assert [step for step, _ in curves[0]] == [step for step, _ in curves[1]] and len(curves[0]) > 10
        torch.testing.assert_close(*(torch.tensor([loss for _, loss in curve]) for curve in curves))
        weights = [torch.load(r.checkpoints / "last.ckpt", weights_only=True)["state_dict"] for r in (two, one)]
        for name in weights[1]:
            torch.testing.assert_close(weights[0][name], weights[1][name])
        assert json.loads(two.results.read_text())["config"]["trainer"]["num_nodes"] == 2
