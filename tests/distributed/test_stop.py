"""Several processes stop together, wherever the signal went, and go on to the same end, bit by bit."""

import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from prefopt.tracking.events import EVENTS, read

COMMON = (
    *("tracking=none", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.log_every=2"),
    *("trainer.checkpoint_every_s=3", "evaluation.times=3", "evaluation.figures=false"),
)
TEXT_SIZES = ("model.hidden_size=16", "model.layers=2", "model.heads=2", "model.vocabulary=300")
TEXT = ("dataset=reviews", "dataset.demonstrations=23", "model=tiny", *TEXT_SIZES, "evaluation.prompts=4")
KINDS = {
    "own samples": (
        *("trainer=ddp", "dataset=bandit", "model=tabular", "method=grpo", "method.prompts=13", "method.group_size=4"),
        *("+method.passes=2", "rounds=3", "batch_size=5"),
    ),
    "text in shards": (
        "trainer=fsdp",
        *TEXT,
        "dataset.pairs=23",
        "method=sft",
        "rounds=3",
        "batch_size=7",
        "micro_batch_size=3",
    ),
}
"""18 and 9 steps in 3 rounds; a checkpoint every third batch that does not end a round."""


@pytest.fixture(scope="module", params=KINDS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, processes: Any) -> Any:
    """An uninterrupted run of two processes: its overrides and home."""
    overrides, home = (*COMMON, *KINDS[request.param]), tmp_path_factory.mktemp("whole")
    ended = processes.run(overrides, home, 2)
    assert ended.codes == [0, 0], ended.said
    return overrides, home


@pytest.fixture
def home(whole: Any, tmp_path: Path) -> Path:
    """A home that has what the run needs, but not the run."""
    overrides, before = whole
    shutil.copytree(before, tmp_path / "home", ignore=lambda *_: [folder(before, overrides).name])
    return tmp_path / "home"


def test_a_signal_to_one_stops_all_at_its_step_and_they_go_on_from_there(
    whole: Any, home: Path, processes: Any
) -> None:
    overrides, before = whole
    for rank, step in ((1, 4), (0, 6), (1, 8)):  # 6 ends a round
        ended = processes.run(overrides, home, 2, signalled=(rank, signal.SIGTERM, step))
        assert ended.codes == [130, 130], ended.said
        assert all(f"at step {step};" in said for said in ended.said), ended.said
        run = folder(home, overrides)
        assert json.loads((run / "status.json").read_text())["state"] == "interrupted"
        assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == step
    ended = processes.run(overrides, home, 2)
    assert ended.codes == [0, 0] and "going on from" in ended.said[0], ended.said
    assert_same(folder(before, overrides), folder(home, overrides))


@pytest.mark.parametrize("rank", [0, 1])
def test_where_one_is_killed_the_other_ends_and_no_step_before_the_last_checkpoint_is_lost(
    rank: int, whole: Any, home: Path, processes: Any
) -> None:
    overrides, before = whole
    ended = processes.run(overrides, home, 2, signalled=(rank, signal.SIGKILL, 5))
    assert ended.codes[rank] == -signal.SIGKILL and ended.codes[1 - rank] == 1, ended.said
    assert torch.load(folder(home, overrides) / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] >= 2
    ended = processes.run(overrides, home, 2)
    assert ended.codes == [0, 0] and "going on from" in ended.said[0], ended.said
    assert_same(folder(before, overrides), folder(home, overrides))


def test_all_hear_that_the_run_is_taken_or_done(whole: Any, processes: Any) -> None:
    overrides, home = whole
    with FileLock(folder(home, overrides) / "lock"):
        ended = processes.run(overrides, home, 2)
        assert ended.codes == [2, 2] and all("is in use by" in said for said in ended.said), ended.said
    ended = processes.run(overrides, home, 2)
    assert ended.codes == [0, 0] and "is done already" in ended.said[0], ended.said


def folder(home: Path, overrides: Sequence[str]) -> Path:
    """The run that was asked for, not those that it needs."""
    [method] = [override.removeprefix("method=") for override in overrides if override.startswith("method=")]
    [found] = home.glob(f"{method}-*")
    return found


def assert_same(one: Path, other: Path) -> None:
    """The runs' weights, last checkpoints and events (less times) are the same."""
    ours, theirs = ([(event.step, event.metrics) for event in read(run / EVENTS)] for run in (one, other))
    assert ours == theirs
    [file] = (one / "policy").glob("*.safetensors")
    same(load_file(file), load_file(other / "policy" / file.name))
    last = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (one, other)]
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "meter", "rng"):
        same(last[0][part], last[1][part])


def same(one: Any, other: Any) -> None:
    """Equal containers, their tensors bit by bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, (list, tuple)):  # a checkpoint may turn the one into the other
        assert len(one) == len(other)
        for ours, theirs in zip(one, other, strict=True):
            same(ours, theirs)
    else:
        assert one == other
