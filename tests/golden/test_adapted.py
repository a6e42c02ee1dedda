"""Cells that adapt one frozen transformer, and share its passes, end as each would alone.

Both compute the same sums, in blocks of another shape: in float32 a gradient differs by some 1e-7 of what it adds up,
and AdamW, which divides each by its own size, hands on what that is of a small one. 1e-4 leaves room for the sums of
other processors. That the difference is rounding and nothing else shows in float64, where all but the log-probs are,
and the same cells agree to 1e-9: another batch, label, rate, clip or scale shows in the second digit.
"""

import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from prefopt import store
from prefopt.config import composed
from prefopt.engine.adapters import Adapters
from prefopt.errors import Diverged, Interrupted
from prefopt.loop.adapters import AdapterStack
from prefopt.methods.pairwise.base import Pairwise
from prefopt.run import Parts, run, run_together
from prefopt.tracking.events import EVENTS, read

SMALL = ("dataset=words", "dataset.pairs=54", "dataset.test_pairs=16", "dataset.hazard=0.2", "dataset.seed=0")
SMALL += ("model=hf", "model.start=null", "model.lora={r: 4, lora_alpha: 8, target_modules: all-linear}")
SMALL += ("tracking=none", "trainer=cpu", "trainer.log_every=3", "rounds=2", "batch_size=8", "optimizer.lr=0.005")
SMALL += ("evaluation.figures=false", "evaluation.times=2", "evaluation.prompts=4", "evaluation.pairs=8", "clip=0.5")

Cell = tuple[str, ...]
CELLS: list[Cell] = [
    ("method=dpo", "seed=0"),
    ("method=dpo", "seed=1", "method.objective.beta=0.5", "optimizer.lr=0.001", "decay=cosine"),
    ("method=rdpo", "seed=0", "noise.rate=0.3", "clip=null", "model.lora.r=2", "optimizer.betas=[0.8,0.95]"),
    ("method=simpo", "seed=2", "noise=none", "optimizer.weight_decay=0.1", "micro_batch_size=3"),
]


class Left(NamedTuple):
    """What a run leaves but times and paths."""

    state: str
    figures: dict[str, float]
    events: list[tuple[int, dict[str, float]]]
    adapter: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small Llama that knows the words, whose laws are far from flat."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("backbone")
    tokenizer = Parts(composed([*SMALL[:5], "model=tiny"])).dataset.tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.2, eos_token_id=tokenizer.eos_token_id, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def cells(folder: Path, swept: Sequence[Cell], *more: str) -> list[Any]:
    return [composed([*SMALL, f"model.path={folder}", *more, *overrides]) for overrides in swept]


def kept(config: Any) -> store.Run:
    return store.run(config.choices.method, config.choices.dataset, Parts(config).fingerprint())


def left(config: Any) -> Left:
    stored = kept(config)
    results = json.loads(stored.results.read_text())["figures"] if stored.results.exists() else {}
    adapter = stored.policy / "adapter" / "adapter_model.safetensors"
    events = [(event.step, event.metrics) for event in read(stored.folder / EVENTS)]
    return Left(stored.status()["state"], results, events, load_file(adapter) if adapter.exists() else {})


def ended(configs: Sequence[Any]) -> list[type[Exception] | None]:
    return [end and type(end) for end in run_together([(config, None) for config in configs])]


def apart(one: Left, other: Left) -> float:
    """How far the adapters are from each other, as a share of their norm; the largest of any matrix."""
    assert one.adapter.keys() == other.adapter.keys() and one.adapter
    return max(float((w - other.adapter[name]).norm() / w.norm()) for name, w in one.adapter.items())


def assert_same(one: Left, other: Left, tolerance: float) -> None:
    assert one.state == other.state == "done"
    assert apart(one, other) < tolerance
    assert [step for step, _ in one.events] == [step for step, _ in other.events]
    for (step, metrics), (_, expected) in zip(one.events, other.events, strict=True):
        assert list(metrics) == list(expected)
        if step == one.events[0][0]:  # at the first step every margin is 0, and whether it is above is rounding
            metrics, expected = ({**each, "rewards/accuracies": 0.0} for each in (metrics, expected))
        assert metrics == pytest.approx(expected, rel=tolerance, abs=tolerance)
    assert one.figures == pytest.approx(other.figures, rel=tolerance, abs=tolerance)


def one_by_one(configs: Sequence[Any], home: Path, monkeypatch: pytest.MonkeyPatch) -> list[Left]:
    monkeypatch.setenv("PREFOPT_HOME", str(home))
    for config in configs:
        run(config)
    return [left(config) for config in configs]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-9)])
def test_cells_that_share_a_transformer_end_as_they_would_alone(
    dtype: str,
    tolerance: float,
    home: Path,
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    alone: list[str],
) -> None:
    configs = cells(backbone, CELLS, f"model.dtype={dtype}")
    assert ended(configs) == [None] * len(configs)
    assert alone == []
    found = [left(config) for config in configs]
    for one, other in zip(found, one_by_one(configs, tmp_path / "alone", monkeypatch), strict=True):
        assert_same(one, other, tolerance)
    assert len({str(one.figures) for one in found}) == len(found), "the cells are alike in all that is measured"


def test_the_transformer_is_in_memory_once(home: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen: list[set[int]] = []
    fit = AdapterStack.fit

    def noted(stack: AdapterStack) -> list[Exception | None]:
        policies = [training.method.policy for training in stack.trainings]
        frozen.append({p.data_ptr() for policy in policies for p in policy.parameters() if not p.requires_grad})
        frozen.append({p.data_ptr() for p in policies[0].parameters() if not p.requires_grad})
        return fit(stack)

    monkeypatch.setattr(AdapterStack, "fit", noted)
    assert ended(cells(backbone, CELLS[:3])) == [None] * 3
    assert frozen[0] == frozen[1]


def test_a_cell_that_diverges_or_breaks_ends_and_the_others_go_on(
    home: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = ("method=ipo", "seed=0")
    configs = cells(backbone, [CELLS[0], ("method=dpo", "seed=3", "optimizer.lr=1e30"), broken, CELLS[1]])
    loss, steps = Pairwise.loss, []

    def breaks(method: Pairwise, batch: Any) -> Any:
        if type(method.objective).__name__ == "IPO":
            steps.append(len(batch))
            if len(steps) > 3:
                raise RuntimeError("broken")
        return loss(method, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Pairwise, "loss", breaks)
        assert ended(configs) == [None, Diverged, RuntimeError, None]
    assert [left(config).state for config in configs] == ["done", "failed", "failed", "done"]
    good = [configs[0], configs[3]]
    found = [left(config) for config in good]
    for one, other in zip(found, one_by_one(good, tmp_path / "alone", monkeypatch), strict=True):
        assert_same(one, other, 1e-4)


@pytest.mark.parametrize("lost", [False, True], ids=["all checkpoints are there", "one is lost"])
def test_cells_that_were_stopped_go_on_at_their_step_and_end_the_same(
    lost: bool, home: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = cells(backbone, CELLS)
    steps: list[int] = []
    take = AdapterStack._take

    def counted(stack: AdapterStack, *step: Any) -> None:
        take(stack, *step)
        steps.append(len(stack.trainings))
        if len(steps) == 9:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(AdapterStack, "_take", counted)
    assert ended(configs) == [Interrupted] * 4
    assert steps == [4] * 9
    if lost:
        shutil.rmtree(kept(configs[0]).checkpoints / "stacked")
    assert ended(configs) == [None] * 4
    assert steps == [4] * 9 + ([3] * 5 if lost else [4] * 5)
    found = [left(config) for config in configs]
    for one, other in zip(found, one_by_one(configs, tmp_path / "alone", monkeypatch), strict=True):
        assert_same(one, other, 1e-4)


def test_where_the_device_has_no_room_for_all_fewer_cells_share_a_pass(
    home: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = cells(backbone, CELLS)
    logps, given = Adapters.logps, []

    def small(adapters: Adapters, batches: Any, members: Sequence[int]) -> Any:
        if len(given) > 9 and len(members) > 2:
            given.append(0)
            raise torch.OutOfMemoryError("CUDA out of memory")
        given.append(len(members))
        return logps(adapters, batches, members)

    with monkeypatch.context() as patch:
        patch.setattr(Adapters, "logps", small)
        assert ended(configs) == [None] * 4
    full = given.index(0)
    assert (given.count(0), max(given[:full]), max(given[full:])) == (1, 4, 2)
    found = [left(config) for config in configs]
    for one, other in zip(found, one_by_one(configs, tmp_path / "alone", monkeypatch), strict=True):
        assert_same(one, other, 1e-4)


@pytest.mark.parametrize(
    ("why", "overrides"),
    [
        ("it has no adapter", ("model.lora=null",)),
        ("its adapter is no plain LoRA", ("+model.lora.use_dora=true",)),
        ("its optimiser cannot be made", ("optimizer.lr=-1",)),
        ("it makes its own examples", ("method=online_dpo", "method.prompts=8", "rounds=1")),
        ("no other is like it", ("method=dpo", "optimizer.lr=0.01")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_cells_that_cannot_share_a_transformer_train_alone_and_it_is_said_why(
    why: str, overrides: Cell, home: Path, backbone: Path, alone: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    swept = [("method=dpo", f"rounds={k + 1}" if why.startswith("no") else f"seed={k}", *overrides) for k in range(2)]
    run_together([(config, None) for config in cells(backbone, swept)])
    assert len(alone) == 2
    assert why in " ".join(capsys.readouterr().err.split())
