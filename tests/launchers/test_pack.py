"""Cells of exact worlds that a job trains as one: each has its own end, and one that fails or is stopped costs no other
anything."""

import json
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launchers.states import known_states
from launchers.work import Work
from prefopt.config import composed
from prefopt.errors import Interrupted
from prefopt.loop.adapters import AdapterStack
from prefopt.loop.exact import ExactStack
from prefopt.manifest import Manifest
from prefopt.run import Parts, run
from prefopt.store import Run
from tests.launchers.conftest import SMALL, Lab, assert_in_mlflow, mlflow_runs

ADAPTED = ("dataset=words", "dataset.pairs=16", "dataset.test_pairs=8", "trainer=cpu", "tracking=none", "model=hf")
ADAPTED += ("model.start=null", "model.lora={r: 2, target_modules: all-linear}", "batch_size=8", "rounds=1")
ADAPTED += ("evaluation.times=1", "evaluation.prompts=2", "evaluation.figures=false", "dataset.demonstrations=8")


def adaptable(folder: Path) -> Path:
    """A small Llama that knows the words, in this folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = Parts(composed(["dataset=words", "trainer=cpu"])).dataset.tokenizer()
    tokenizer.save_pretrained(folder)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(folder)
    return folder


def figures(stored: Run) -> dict[str, float]:
    return json.loads(stored.results.read_text())["figures"]


def job(manifest: Manifest, **how: Any) -> Work:
    """One job of all runs of the sweep, which trains as one what it can."""
    manifest.write()
    names = tuple(entry.run for entry in (*manifest.stages, *manifest.cells))
    return Work(manifest.folder, names, False, 0.0, stack=True, **how)


def test_a_packed_sweep_ends_as_its_cells_alone_and_again_does_only_what_is_missing(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept = ("method=dpo,rdpo", "seed=0,1", "optimizer.lr=0.05,-1", "hydra/launcher=pack", "hydra.launcher.jobs=2")
    first = lab.train(*swept)
    assert first.code == 1 and "4 done, 4 failed" in first.said, first.said
    assert (
        "2 processes take 8 runs from one list; exact ones that are alike, and adapters of one model, train as one"
        in first.said
    )
    manifest = lab.manifest()
    good, bad = manifest.runs()[::2], manifest.runs()[1::2]
    for stored in bad:
        assert stored.status()["state"] == "failed"
        assert "Invalid learning rate" in (stored.folder / "error.txt").read_text()
        assert f"{stored.name}; see {stored.folder / 'error.txt'}" in first.said
    assert not any(stored.checkpoints.exists() for stored in good), "what trains as one saves no checkpoint"

    assert_in_mlflow(lab)
    shown = mlflow_runs(lab.home)
    (parent,) = [one for one in shown if one.info.run_name == manifest.name]
    cells = [one for one in shown if one.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert Counter(one.info.status for one in cells) == {"FINISHED": 4, "FAILED": 4}
    assert {one.info.run_name for one in cells if one.info.status == "FAILED"} == {stored.name for stored in bad}

    monkeypatch.setenv("PREFOPT_HOME", str(tmp_path / "alone"))
    for cell, stored in zip(manifest.cells[::2], good, strict=True):
        alone = run(composed([*SMALL, *cell.overrides, "tracking=none"]))
        assert (alone.name, alone.checkpoints.exists()) == (stored.name, True)
        assert figures(stored) == pytest.approx(figures(alone), rel=1e-9, abs=1e-12)

    good[0].results.unlink()
    again = lab.train(*swept)
    assert again.code == 1 and "4 done, 4 failed" in again.said, again.said
    assert set(lab.manifest().jobs[-1].runs) == {good[0].name, *(stored.name for stored in bad)}
    assert [stored.status()["restarts"] for stored in manifest.runs()] == [1, 1, 0, 1, 0, 1, 0, 1]


def test_a_job_of_stacked_cells_that_is_told_to_stop_is_interrupted_and_the_next_one_ends_them(
    plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    manifest = plan([[f"seed={seed}", "tracking=none"] for seed in range(3)])
    work, take, taken = job(manifest), ExactStack._take, []

    def told_to_stop(stack: ExactStack, *step: Any) -> None:
        take(stack, *step)
        taken.append(len(stack.trainings))
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(ExactStack, "_take", told_to_stop)
    with pytest.raises(SystemExit) as left:
        work()
    assert (left.value.code, taken) == (Interrupted.exit_code, [3])
    assert [stored.status()["state"] for stored in manifest.runs()] == ["interrupted"] * 3
    assert {state.state for state in known_states(manifest).values()} == {"stopped"}
    monkeypatch.setattr(ExactStack, "_take", take)
    work()
    assert all(stored.done and stored.status()["restarts"] == 1 for stored in manifest.runs())


def test_a_cell_of_a_stack_that_is_not_what_was_planned_fails_and_the_others_go_on(
    plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    manifest = plan([[f"seed={seed}", "tracking=none"] for seed in range(3)])
    first, *others = manifest.cells
    manifest = replace(manifest, cells=(replace(first, run="dpo-bandit-000000000000"), *others))
    with pytest.raises(SystemExit) as left:
        job(manifest)()
    assert left.value.code == 2
    changed, *good = manifest.runs()
    assert changed.status()["state"] == "failed" and all(stored.done for stored in good)
    assert "was planned, and its configuration now makes" in (changed.folder / "error.txt").read_text()


def test_stages_and_cells_of_other_worlds_are_by_themselves_and_every_fork_has_a_stack(plan: Any) -> None:
    text = ["method=dpo", "trainer=cpu", "dataset=words", "model=tiny", "dataset.pairs=8", "dataset.test_pairs=8"]
    exact = [[*SMALL, f"method={method}", f"seed={seed}"] for method in ("dpo", "rdpo") for seed in range(3)]
    manifest = plan([text, *exact], base=())
    (stage,), (tiny, *cells) = manifest.stages, manifest.cells
    names = [cell.run for cell in cells]
    apart = [(stage.run,), (tiny.run,)]
    assert job(manifest)._groups(manifest) == [*apart, tuple(names)]
    assert job(manifest, forks=2)._groups(manifest) == [*apart, tuple(names[:3]), tuple(names[3:])]
    assert job(manifest, forks=9)._groups(manifest) == [*apart, *((name,) for name in names)]
    assert replace(job(manifest), stack=False)._groups(manifest) == [*apart, *((name,) for name in names)]


def test_cells_that_adapt_one_model_are_together_and_no_two_models_are(plan: Any, tmp_path: Path) -> None:
    folder = adaptable(tmp_path / "model")
    text = [*ADAPTED, f"model.path={folder}"]
    swept = [[*text, f"method={method}", f"seed={seed}"] for method in ("dpo", "rdpo") for seed in range(2)]
    stage = "model.start={method: sft, noise: none}"
    manifest = plan([*swept, *([*cell, stage] for cell in swept), [*swept[0], "model.lora=null"]], base=())
    names = [cell.run for cell in manifest.cells]
    groups = job(manifest)._groups(manifest)
    assert groups[:3] == [*((stage.run,) for stage in manifest.stages), (names[8],)]
    assert groups[3:] == [tuple(names[:4]), (names[4], names[6]), (names[5], names[7])], "each seed has its own start"
    assert job(manifest, forks=2)._groups(manifest)[3:5] == [tuple(names[:2]), tuple(names[2:4])]


def test_a_packed_job_of_adapters_ends_as_its_cells_alone(
    plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    text = [*ADAPTED, f"model.path={adaptable(tmp_path / 'model')}"]
    swept = [[*text, f"method={method}", f"seed={seed}"] for method in ("dpo", "ipo") for seed in range(2)]
    manifest = plan(swept, base=())
    took: list[int] = []
    fit = AdapterStack.fit
    monkeypatch.setattr(AdapterStack, "fit", lambda stack: took.append(len(stack.trainings)) or fit(stack))
    job(manifest)()
    assert took == [4]
    together = [figures(stored) for stored in manifest.runs()]
    monkeypatch.setenv("PREFOPT_HOME", str(tmp_path / "alone"))
    for one, overrides in zip(together, swept, strict=True):
        assert one == pytest.approx(figures(run(composed(overrides))), rel=1e-4, abs=1e-4)
