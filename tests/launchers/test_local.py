"""A sweep on this machine: every cell once, sent again only what is missing, and nothing lost when it is stopped."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from launchers.states import known_states, queue
from prefopt.manifest import MANIFEST
from prefopt.store import Run
from prefopt.tracking.events import EVENTS, read
from tests.launchers.conftest import PATIENCE_S, SMALL, Lab, assert_in_mlflow, command, ended, mlflow_runs, until

TWO_BY_TWO = ("method=dpo,rdpo", "seed=0,1", "hydra.launcher.jobs=2")
TEXT = (
    "dataset=words",
    "model=tiny",
    "trainer=cpu",
    "model.hidden_size=16",
    "dataset.pairs=64",
    "dataset.demonstrations=64",
    "dataset.test_pairs=16",
    "model.recipe.demonstrations.rounds=1",
    "evaluation.times=1",
    "evaluation.prompts=4",
    "trainer.log_every=1",
)
LONG = ("dataset.pairs=2560", "rounds=400", "trainer.checkpoint_every_s=0.5", "hydra.launcher.jobs=2")


def runs(lab: Lab) -> list[Run]:
    return lab.manifest().runs()


def figures(runs: list[Run]) -> dict[str, Any]:
    return {run.name: json.loads(run.results.read_text())["figures"] for run in runs}


def weights(runs: list[Run]) -> dict[str, Any]:
    """The tensors of every run's last checkpoint."""
    return {run.name: torch.load(run.checkpoints / "last.ckpt", weights_only=True)["state_dict"] for run in runs}


def events(run: Run) -> list[tuple[int, dict[str, float]]]:
    return [(event.step, event.metrics) for event in read(run.folder / EVENTS)]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(
        one[run].keys() == other[run].keys() and all(torch.equal(one[run][k], other[run][k]) for k in one[run])
        for run in one
    )


def test_a_sweep_runs_every_cell_once_and_again_only_what_is_missing(lab: Lab) -> None:
    first = lab.train(*TWO_BY_TWO)
    assert first.code == 0, first.said
    assert "4 done" in first.said and "prefopt.compare sweep=" in first.said
    manifest = lab.manifest()
    assert [run.done for run in manifest.runs()] == [True] * 4
    assert len(manifest.jobs) == 1
    for cell, run in zip(manifest.cells, manifest.runs(), strict=True):
        assert run.status()["restarts"] == 0
        assert (run.folder / "log.txt").exists(), cell

    again = lab.train(*TWO_BY_TWO)
    assert again.code == 0 and "nothing is missing" in again.said
    assert lab.manifest().jobs == manifest.jobs

    before = figures(manifest.runs())
    for run in manifest.runs()[:2]:
        run.results.unlink()
    written = (manifest.folder / MANIFEST).read_bytes()
    planned = lab.sweep("plan", manifest.name)
    assert planned.code == 0 and "2 done, 2 new" in planned.said and "processes take 2 runs" in planned.said
    assert (manifest.folder / MANIFEST).read_bytes() == written
    assert lab.sweep("resume", manifest.name).code == 0
    assert [run.status()["restarts"] for run in manifest.runs()] == [1, 1, 0, 0]
    assert lab.manifest().jobs[-1].runs == tuple(cell.run for cell in manifest.cells[:2])
    assert figures(manifest.runs()) == before


@pytest.mark.parametrize("world", [SMALL, TEXT], ids=["exact", "text"])
def test_a_forked_cell_and_its_stage_equal_the_same_runs_alone(
    lab: Lab, tmp_path: Path, world: tuple[str, ...]
) -> None:
    sweep = ("prefopt.train", "-m", *world, "method=dpo,rdpo", "hydra.launcher.jobs=2")
    outcome = ended(command(*sweep, home=lab.home))
    assert outcome.code == 0, outcome.said
    alone = tmp_path / "alone"
    assert ended(command("prefopt.train", *world, "method=rdpo", home=alone)).code == 0
    compared = [Run(results.parent) for results in alone.glob("*/results.json")]
    assert len(compared) == 1 + len(lab.manifest().stages)
    for run in compared:
        forked = Run(lab.home / run.name)
        assert same(weights([forked]), weights([run])) and figures([forked]) == figures([run])
        assert events(forked) == events(run)


def test_a_cell_that_fails_says_why_and_the_others_go_on(lab: Lab) -> None:
    outcome = lab.train("optimizer.lr=0.05,-1", "hydra.launcher.jobs=1")
    assert outcome.code == 1
    good, bad = lab.manifest().runs()
    assert good.done and bad.status()["state"] == "failed"
    assert "1 done, 1 failed" in outcome.said
    for said in (outcome.said, (bad.folder / "log.txt").read_text(), (bad.folder / "error.txt").read_text()):
        assert "Invalid learning rate" in said
    assert "Traceback" in (bad.folder / "log.txt").read_text()
    status = lab.sweep("status", lab.manifest().name)
    assert status.code == 1 and "Invalid learning rate" in status.out and "prefopt.sweep resume" in status.out


def test_on_error_stop_begins_no_further_cell_and_resume_does(lab: Lab) -> None:
    outcome = lab.train("optimizer.lr=-1,0.05", "hydra.launcher.jobs=1", "hydra.launcher.on_error=stop")
    assert outcome.code == 1
    bad, never = lab.manifest().runs()
    assert bad.status()["state"] == "failed" and never.status()["state"] == "new"
    assert lab.sweep("resume", lab.manifest().name, "on_error=continue").code == 1
    assert never.done


def test_data_that_changed_since_the_sweep_was_planned_are_refused(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"what is {i}?", "chosen": f"it is {i}", "rejected": "no idea"} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = ("dataset=pairs", f"dataset.path={path}", "model=tiny", "noise.rate=0.1,0.2", "hydra.launcher.submit=false")
    planned = ended(command("prefopt.train", "-m", "trainer=cpu", *text, home=lab.home))
    assert planned.code == 0 and "nothing was sent" in planned.said, planned.said
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))
    outcome = lab.sweep("resume", lab.manifest().name)
    assert outcome.code == 1
    assert "was planned, and its configuration now makes" in outcome.said
    assert not any(run.done for run in lab.manifest().runs())


def test_a_sweep_without_a_terminal_is_cancelled_at_checkpoints_and_goes_on(lab: Lab, tmp_path: Path) -> None:
    long = ("seed=0,1", *LONG)
    sent = lab.train(*long, "hydra.launcher.wait=false")
    assert sent.code == 0 and "prefopt.sweep status" in sent.said
    manifest = lab.manifest()
    until(lambda: all((run.folder / "metrics.jsonl").exists() for run in manifest.runs()), "both cells to train")
    assert "1 jobs told to stop" in lab.sweep("cancel", manifest.name).out
    until(lambda: not queue(manifest.jobs), "the end of both")
    assert "stopped" in {state.state for state in known_states(manifest).values()}
    assert lab.sweep("resume", manifest.name).code == 0
    whole = Lab(tmp_path / "whole")
    assert whole.train(*long).code == 0
    assert same(weights(runs(lab)), weights(runs(whole))) and figures(runs(lab)) == figures(runs(whole))


def test_ctrl_c_stops_a_sweep_at_checkpoints_and_says_how_to_go_on(lab: Lab) -> None:
    sweep = command("prefopt.train", "-m", *SMALL, "seed=0,1", *LONG, home=lab.home)
    until(lambda: list(lab.home.glob("*/metrics.jsonl")), "a cell to train")
    sweep.send_signal(signal.SIGINT)
    outcome = ended(sweep)
    manifest = lab.manifest()
    assert outcome.code == 130, outcome.said
    assert "stopped by Ctrl-C" in outcome.said and "prefopt.sweep resume" in outcome.said
    assert not queue(manifest.jobs)
    assert "stopped" in {state.state for state in known_states(manifest).values()}
    assert {run.info.status for run in mlflow_runs(lab.home)} <= {"KILLED", "FINISHED"}


def test_a_killed_process_is_replaced_and_its_cell_goes_on(lab: Lab, tmp_path: Path) -> None:
    longer = (*SMALL, *LONG[:-1], "rounds=800")  # it must not end before it is killed, on however busy a machine
    sweep = command("prefopt.train", "-m", *longer, "seed=0,1", LONG[-1], home=lab.home)
    until(lambda: list(lab.home.glob("*/checkpoints/last.ckpt")), "a checkpoint")
    victim = next(run for run in runs(lab) if (run.checkpoints / "last.ckpt").exists())
    (other,) = (run for run in runs(lab) if run != victim)
    os.kill(victim.status()["pid"], signal.SIGKILL)
    outcome = ended(sweep)
    assert outcome.code == 0, outcome.said
    assert f"lost: {victim.name}; sent again" in outcome.said
    assert (victim.status()["restarts"], other.status()["restarts"]) == (1, 0)
    seed = yaml.safe_load((victim.folder / "config.yaml").read_text())["seed"]
    assert ended(command("prefopt.train", *longer, f"seed={seed}", home=tmp_path / "whole")).code == 0
    whole = Run(tmp_path / "whole" / victim.name)
    assert same(weights([victim]), weights([whole])) and figures([victim]) == figures([whole])


def test_sixteen_cells_at_once_on_a_fresh_store_lose_no_metric(lab: Lab) -> None:
    seeds = ",".join(map(str, range(16)))
    patient = f"tracking.patience_s={PATIENCE_S}"
    outcome = lab.train(f"seed={seeds}", "rounds=30", "trainer.log_every=1", "hydra.launcher.jobs=16", patient)
    assert outcome.code == 0, outcome.said
    runs = mlflow_runs(lab.home)
    (parent,) = [run for run in runs if run.info.run_name == lab.manifest().name]
    assert len([run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]) == 16
    assert_in_mlflow(lab)


def test_a_stage_that_fails_is_not_tried_by_each_cell_in_turn(lab: Lab) -> None:
    text = ("dataset=reviews", "model=tiny", "trainer=cpu", "dataset.pairs=32", "dataset.demonstrations=32")
    broken = ("method=dpo,rdpo", "++model.start.decay=nonsense", "hydra.launcher.jobs=2")
    outcome = ended(command("prefopt.train", "-m", *text, *broken, home=lab.home))
    assert outcome.code == 1
    manifest = lab.manifest()
    stage = manifest.stored(manifest.stages[0].run)
    assert (stage.status()["state"], stage.status()["restarts"]) == ("failed", 0)
    for run in manifest.runs():
        assert run.status()["state"] == "failed"
        assert f"{stage.name}, which this run needs, has failed" in (run.folder / "error.txt").read_text()
