"""A run shared by several processes is the run of one: the same curves and weights, to the last digits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prefopt.tracking.events import EVENTS, read

SIZES = ("dataset.pairs=23", "dataset.test_pairs=16", "rounds=3", "batch_size=7", "tracking=none")
"""Batches of 8, 8 and 7: neither two nor three processes get equal parts of all of them."""
COMMON = ("trainer.accelerator=cpu", "trainer.log_every=1", "evaluation.times=2", "evaluation.figures=false")
DESCENT = ("optimizer._target_=torch.optim.SGD", "~optimizer.betas", "~optimizer.fused", "optimizer.lr=0.5")
"""Adam divides a gradient by its size, and thereby makes the rounding of a small one large."""
TEXT_SIZES = ("model.hidden_size=16", "model.layers=2", "model.heads=2", "model.vocabulary=300")
TEXT = ("dataset=reviews", "dataset.demonstrations=23", "model=tiny", *TEXT_SIZES, "evaluation.prompts=4")
KINDS = {
    "rdpo on an exact world": ("dataset=bandit", "model=log_linear", "method=rdpo", *DESCENT),
    "to the minimum": (
        *("dataset=bandit", "model=log_linear", "method=dpo", "noise.rate=0.4"),
        *("optimizer=lbfgs", "optimizer.max_iter=20", "clip=null", "batch_size=23", "rounds=1"),
    ),
    "own samples": (
        *("dataset=bandit", "model=tabular", "method=grpo", "method.prompts=7", "method.group_size=4"),
        *("+method.passes=2", *DESCENT),
    ),
    "weights of groups": ("dataset=bandit", "model=log_linear", "method=group_dpo", "method.robust.step=1", *DESCENT),
    "temperatures of examples": (
        *("dataset=bandit", "model=log_linear", "method=ldr", "method.normalised=false", "method.lam=1", *DESCENT),
    ),
    "a curriculum of two": ("dataset=bandit", "model=mlp", "method=crm", "method.warm=1", *DESCENT),
    "text in micro-batches": (*TEXT, "method=sft", "micro_batch_size=3", *DESCENT),
    "text with a stage before": (*TEXT, "method=rdpo"),
    "text and the reliability of annotators": (*TEXT, "method=lcpo", "micro_batch_size=3", *DESCENT),
}


SHARED = [(kind, "ddp", world) for kind in KINDS for world in (2, 3)]
SHARDED = [(kind, "fsdp", 2) for kind in KINDS if "text" in kind]


@pytest.fixture(scope="module")
def alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, processes: Any) -> Any:
    """The run of one process: its overrides and folder."""
    home = tmp_path_factory.mktemp("alone")
    overrides = (*COMMON, *SIZES, *KINDS[request.param])
    ended = processes.run([*overrides, "trainer=cpu"], home)
    assert ended.codes == [0], ended.said
    return overrides, folder(home, overrides)


@pytest.mark.parametrize(("alone", "strategy", "world"), SHARED + SHARDED, indirect=["alone"])
def test_several_processes_train_as_one_does(
    strategy: str, world: int, alone: Any, tmp_path: Path, processes: Any
) -> None:
    overrides, one = alone
    sharing = [f"trainer={strategy}", f"trainer.devices={world}", "trainer.precision=32-true"]
    ended = processes.run([*overrides, *sharing], tmp_path, world)
    assert ended.codes == [0] * world, ended.said
    several = folder(tmp_path, overrides)

    # In another order a sum of some hundred terms differs by some hundred eps of its partial sums: these are of order
    # 1 in float64 on the exact world, and up to some hundred nats (whole responses) in float32 on text.
    exact = "dataset=bandit" in overrides
    metrics, weights = (1e-12, 1e-12) if exact else (1e-5, 1e-6 if set(DESCENT) <= set(overrides) else 1e-5)
    ours, theirs = curve(one), curve(several)
    assert [(step, metrics.keys()) for step, metrics in ours] == [(step, metrics.keys()) for step, metrics in theirs]
    for (step, values), (_, others) in zip(ours, theirs, strict=True):
        for name, value in values.items():
            if exact or "accura" not in name:  # which of two equal numbers is the larger one is decided by rounding
                expected = pytest.approx(value, rel=metrics, abs=metrics, nan_ok=True)
                assert others[name] == expected, f"{name} at step {step}"
    before, after = weights_of(one), weights_of(several)
    assert before.keys() == after.keys() and len(before) > 0
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=weights)


def folder(home: Path, overrides: Sequence[str]) -> Path:
    """The run that was asked for, not those that it needs."""
    [method] = [override.removeprefix("method=") for override in overrides if override.startswith("method=")]
    [found] = home.glob(f"{method}-*")
    return found


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    """By file, of each member where there are several, and name."""
    files = (run / "policy").rglob("*.safetensors")
    return {f"{path.relative_to(run)}/{name}": value for path in files for name, value in load_file(path).items()}


def curve(run: Path) -> list[tuple[int, dict[str, float]]]:
    return [(event.step, event.metrics) for event in read(run / EVENTS)]
