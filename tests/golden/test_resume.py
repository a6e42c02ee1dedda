"""A run that was killed ends as one that was not: the same weights, events and figures, bit by bit."""

import json
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prefopt.tracking.events import EVENTS, read

TEXT = [
    *("dataset=reviews", "model=tiny", "model.hidden_size=32", "model.layers=1", "model.vocabulary=300"),
    *("dataset.pairs=64", "dataset.demonstrations=64", "dataset.test_pairs=16", "evaluation.prompts=4"),
    *("method=rdpo", "rounds=3", "batch_size=16", "micro_batch_size=5", "decay=cosine"),
    *("tracking=none", "trainer=cpu", "trainer.log_every=2", "trainer.checkpoint_every_s=3", "evaluation.times=3"),
]
"""12 steps in 3 rounds after an SFT stage; evaluations at steps 4, the end of a round, and 8."""
BANDIT = [
    *("dataset=bandit", "model=log_linear", "dataset.pairs=64", "dataset.test_pairs=16"),
    *("method=grpo", "method.prompts=12", "method.group_size=4", "+method.passes=2", "rounds=3", "batch_size=4"),
    *("tracking=none", "trainer=cpu", "trainer.log_every=4", "trainer.checkpoint_every_s=3", "evaluation.times=4"),
]
"""18 steps in 3 rounds, each on samples of its own; evaluations at steps 4, 9, the middle of a round, and 14."""
KINDS = {"text": (TEXT, "rdpo", 12), "bandit": (BANDIT, "grpo", 18)}


@pytest.fixture(scope="module", params=KINDS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, processes: Any) -> Any:
    """An uninterrupted run: its overrides, method, steps and home."""
    overrides, method, steps = KINDS[request.param]
    home = tmp_path_factory.mktemp(request.param)
    ended = processes.run(overrides, home)
    assert ended.code == 0, ended.said
    return overrides, method, steps, home


@pytest.fixture
def other(whole: Any, tmp_path: Path) -> Path:
    """A home that has what the run needs, but not the run."""
    _, method, _, home = whole
    shutil.copytree(home, tmp_path / "home", ignore=shutil.ignore_patterns(f"{method}-*"))
    return tmp_path / "home"


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_killed_at_5_random_steps_ends_as_one_that_never_was(
    seed: int, whole: Any, other: Path, processes: Any
) -> None:
    overrides, method, steps, home = whole
    for step in sorted(random.Random(seed).sample(range(1, steps + 1), 5)):
        ended = processes.run(overrides, other, dies=("step", step))
        assert ended.code == -signal.SIGKILL, ended.said
    ended = processes.run(overrides, other)
    assert ended.code == 0 and "going on from" in ended.said, ended.said
    assert_same(only(home, method), only(other, method))


PLACES = [
    ("prefopt.run:_carried_out", 1),
    ("prefopt.run:fit", 1),
    ("prefopt.methods.base:Method.training_step", 2),
    ("prefopt.loop.record:Evaluate.on_train_batch_end", 4),
    ("prefopt.methods.base:Method.finish", 1),
    ("prefopt.loop.checkpoints:Checkpoints.on_train_epoch_end", 1),
    ("prefopt.tracking.events:EventFile.flush", 2),
    ("prefopt.loop.checkpoints:write", 1),
    ("pathlib:Path.replace", 4),  # the first three put status.json, config.yaml and facts.json in their places,
    ("pathlib:Path.replace", 5),  # these three a checkpoint: new, last to previous, new to last
    ("pathlib:Path.replace", 6),
    ("prefopt.run:append", 1),
    ("prefopt.run:record", 1),
]
"""From the first line to the last: before the first step, within a step, at the ends of a round, while a checkpoint is
written and put in its place, and when nothing is left to train."""


def test_it_may_be_killed_anywhere(whole: Any, other: Path, processes: Any) -> None:
    overrides, method, _, home = whole
    for place in PLACES:
        ended = processes.run(overrides, other, dies=place)
        assert ended.code == -signal.SIGKILL, (place, ended.said)
    ended = processes.run(overrides, other)
    assert ended.code == 0, ended.said
    assert_same(only(home, method), only(other, method))
    assert not list(only(other, method).rglob("*.part"))


def only(home: Path, method: str) -> Path:
    """The folder of the home's one run of this method."""
    [folder] = home.glob(f"{method}-*")
    return folder


def assert_same(one: Path, other: Path) -> None:
    """The runs' weights, last checkpoints, events (less times) and figures are the same."""
    assert results(one) == results(other)
    assert [(e.step, e.metrics) for e in read(one / EVENTS)] == [(e.step, e.metrics) for e in read(other / EVENTS)]
    for file in (one / "policy").glob("*.safetensors"):
        same(load_file(file), load_file(other / "policy" / file.name))
    ours, theirs = (torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (one, other))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "meter", "rng"):
        same(ours[part], theirs[part])


def results(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())["figures"]


def same(one: Any, other: Any) -> None:
    """Equal containers, their tensors bit by bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for ours, theirs in zip(one, other, strict=True):
            same(ours, theirs)
    else:
        assert one == other
