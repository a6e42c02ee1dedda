"""Cells that train as one end as each would alone.

Both compute the same sums in float64, in another order: a step differs by some 1e-15 of what it adds up, and nothing
here makes that grow. After tens of steps 1e-9 leaves room for a figure that is a small difference of large numbers, and
none for another batch, label, rate, clip or schedule, each of which shows in the third digit.
"""

import json
import signal
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from prefopt import store
from prefopt.config import composed
from prefopt.errors import Diverged, Interrupted
from prefopt.loop.alike import PROPORTIONAL
from prefopt.loop.exact import ExactStack
from prefopt.loop.fit import Training
from prefopt.run import Parts, run, run_together
from prefopt.tracking.events import EVENTS, read

WORLD = ("dataset=bandit", "dataset.pairs=96", "dataset.test_pairs=32", "tracking=none", "trainer=cpu", "rounds=3")
SIZES = (
    "dataset.contexts=6",
    "dataset.responses=4",
    "dataset.dimension=3",
    "batch_size=16",
    "evaluation.figures=false",
)
SIZES += ("evaluation.times=3", "trainer.log_every=4", "clip=0.02", "decay=cosine")


class Left(NamedTuple):
    """What a run leaves but times and paths."""

    state: str
    figures: dict[str, float]
    events: list[tuple[int, dict[str, float]]]
    weights: dict[str, torch.Tensor]


Cell = tuple[str, ...]
"""Overrides of a configuration."""


def cells(method: str, *more: str, swept: Sequence[Cell]) -> list[Cell]:
    return [(*WORLD, *SIZES, f"method={method}", *more, *overrides) for overrides in swept]


@cache
def configured(cell: Cell) -> tuple[DictConfig, str]:
    """The cell's configuration, and its fingerprint."""
    config = composed(list(cell))
    return config, Parts(config).fingerprint()


def kept(cell: Cell) -> store.Run:
    config, fingerprint = configured(cell)
    return store.run(config.choices.method, config.choices.dataset, fingerprint)


def carried_out(swept: Sequence[Cell]) -> list[type[Exception] | None]:
    """How each of the cells ended, together."""
    return [end and type(end) for end in run_together([(configured(cell)[0], None) for cell in swept])]


def left(cell: Cell) -> Left:
    run = kept(cell)
    results, policy = run.results, run.policy / "exact.safetensors"
    return Left(
        run.status()["state"],
        json.loads(results.read_text())["figures"] if results.exists() else {},
        [(event.step, event.metrics) for event in read(run.folder / EVENTS)],
        load_file(policy) if policy.exists() else {},
    )


def both(swept: Sequence[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Left], list[Left]]:
    """What the cells leave that were carried out together, and one after the other."""
    monkeypatch.setenv("PREFOPT_HOME", str(tmp_path / "together"))
    assert carried_out(swept) == [None] * len(swept)
    together = [left(cell) for cell in swept]
    monkeypatch.setenv("PREFOPT_HOME", str(tmp_path / "alone"))
    for cell in swept:
        run(configured(cell)[0])
    return together, [left(cell) for cell in swept]


def assert_same(together: Left, alone: Left) -> None:
    assert together.state == alone.state == "done"
    assert together.figures == pytest.approx(alone.figures, rel=1e-9, abs=1e-12)
    assert list(together.figures) == list(alone.figures)
    assert [step for step, _ in together.events] == [step for step, _ in alone.events]
    for (_, metrics), (_, expected) in zip(together.events, alone.events, strict=True):
        assert list(metrics) == list(expected)
        assert metrics == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert together.weights.keys() == alone.weights.keys()
    for name, value in together.weights.items():
        torch.testing.assert_close(value, alone.weights[name], rtol=1e-9, atol=1e-12)


LDR = [("method.normalised=false", "method.margin=0.5", cell) for cell in ("method.lam=1", "method.alpha=3", "seed=1")]
"""Not normalised, for from scores of nought that would make much of rounding: its slope there is 1e6."""
SEEDS = [("seed=0",), ("seed=1", "noise.rate=0.3"), ("seed=1", "noise=none", "noise.assumed=0.2")]
BETAS = [("seed=0", "method.objective.beta=0.05"), ("seed=1", "optimizer.lr=0.02"), ("warmup=0.5", "clip=null")]
STACKED = {
    "dpo": ("dpo", "model=log_linear", BETAS),
    "sgd": ("dpo", "model=log_linear", [(*b, "optimizer._target_=torch.optim.SGD", "~optimizer.betas") for b in BETAS]),
    "decayed": ("dpo", "model=log_linear", [(*b, "optimizer.weight_decay=0.1", "seed=2") for b in BETAS[1:]]),
    "rdpo": ("rdpo", "model=log_linear", SEEDS),
    "dpo_pro": ("dpo_pro", "model=log_linear", SEEDS),
    "forward_dpo": ("forward_dpo", "model=log_linear", SEEDS),
    "group_dpo": ("group_dpo", "model=log_linear", [("method.robust.step=0.5",), ("seed=1",)]),
    "lcpo": ("lcpo", "model=log_linear", [("method.robust.reliability=0.8",), ("seed=1", "noise=annotators")]),
    "simpo": ("simpo", "model=tabular", [("method.objective.gamma=0.1",), ("seed=1",)]),
    "kto": ("kto", "model=log_linear", BETAS),
    "bradley_terry": ("bradley_terry", "model=log_linear", SEEDS),
    "ldr": ("ldr", "model=log_linear", LDR),
    "gpm": ("gpm", "model=log_linear", [("method.tau=0.2",), ("seed=1", "noise.rate=0.3")]),
}


@pytest.mark.parametrize("case", STACKED)
def test_stacked_cells_end_as_they_would_alone(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: list[str]
) -> None:
    method, model, swept = STACKED[case]
    together, apart = both(cells(method, model, swept=swept), tmp_path, monkeypatch)
    assert alone == []
    for one, other in zip(together, apart, strict=True):
        assert_same(one, other)
    assert len({str(one.figures) for one in together}) == len(swept), "the cells are alike in all that is measured"


def test_methods_of_several_kinds_make_several_stacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: list[str]
) -> None:
    built: list[int] = []
    init = ExactStack.__init__
    monkeypatch.setattr(
        ExactStack, "__init__", lambda self, trainings: built.append(len(trainings)) or init(self, trainings)
    )
    swept = [cell for method in ("dpo", "ipo", "orpo") for cell in cells(method, "model=tabular", swept=SEEDS[:2])]
    together, apart = both(swept, tmp_path, monkeypatch)
    assert (built, alone) == ([2, 2, 2], [])
    for one, other in zip(together, apart, strict=True):
        assert_same(one, other)


def test_a_number_that_a_loss_branches_on_parts_the_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: list[str]
) -> None:
    """Trimming counts the pairs that it leaves out: cells of one epsilon train as one, one that has no like alone."""
    swept = [(f"seed={seed}", f"noise.assumed={rate}") for rate, seed in ((0.1, 0), (0.1, 1), (0.3, 0))]
    together, apart = both(cells("trimmed_dpo", "model=tabular", swept=swept), tmp_path, monkeypatch)
    assert alone == ["Pairwise"]
    for one, other in zip(together, apart, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize(
    "cell",
    [
        ("method=dpo", "optimizer=lbfgs", "batch_size=96", "clip=null"),
        ("method=dpo", "batch_size=20"),
        ("method=dpo", "micro_batch_size=8"),
        ("method=bco",),
        ("method=online_dpo", "rounds=2"),
        ("method=gibbs", "method.needs.reward=gold", "noise=none"),
    ],
    ids=lambda cell: cell[-1],
)
def test_what_cannot_be_stacked_runs_alone_and_ends_the_same(
    cell: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: list[str]
) -> None:
    swept = cells("dpo", "model=tabular", swept=[(*cell, f"seed={seed}") for seed in range(2)])
    together, apart = both(swept, tmp_path, monkeypatch)
    assert len(alone) == 2
    for one, other in zip(together, apart, strict=True):
        assert one.figures == other.figures
        assert one.events == other.events


def test_a_cell_that_diverges_ends_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swept = cells("ipo", "model=log_linear", swept=[("seed=0",), ("optimizer.lr=1e200",), ("seed=1",)])
    monkeypatch.setenv("PREFOPT_HOME", str(tmp_path / "together"))
    assert carried_out(swept) == [None, Diverged, None]
    together = [left(cell) for cell in swept]
    said = (kept(swept[1]).folder / "error.txt").read_text().splitlines()[-2]
    assert [one.state for one in together] == ["done", "failed", "done"]
    monkeypatch.setenv("PREFOPT_HOME", str(tmp_path / "alone"))
    with pytest.raises(Diverged) as diverged:
        run(configured(swept[1])[0])
    assert diverged.value.what in said.replace("together", "alone")
    assert together[1].events == left(swept[1]).events
    for k in (0, 2):
        run(configured(swept[k])[0])
        assert_same(together[k], left(swept[k]))


def test_cells_that_are_told_to_stop_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swept = cells("rdpo", "model=log_linear", swept=SEEDS)
    steps: list[int] = []
    take = ExactStack._take

    def stopped(self: Any, *step: Any) -> None:
        take(self, *step)
        steps.append(len(steps))
        if len(steps) == 7:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(ExactStack, "_take", stopped)
        patch.setenv("PREFOPT_HOME", str(tmp_path / "together"))
        assert carried_out(swept) == [Interrupted] * 3
        assert [left(cell).state for cell in swept] == ["interrupted"] * 3
        assert len(steps) == 7
    together, apart = both(swept, tmp_path, monkeypatch)
    for one, other in zip(together, apart, strict=True):
        assert_same(one, other)


def test_a_rate_that_the_optimiser_refuses_is_the_end_of_its_cell_alone(home: Path) -> None:
    swept = cells("dpo", "model=tabular", swept=[("seed=0",), ("optimizer.lr=-1",), ("seed=1",)])
    assert carried_out(swept) == [None, ValueError, None]
    assert [left(cell).state for cell in swept] == ["done", "failed", "done"]
    assert "Invalid learning rate" in (kept(swept[1]).folder / "error.txt").read_text()


def test_an_error_outside_of_any_cell_is_the_end_of_all_and_each_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(trainings: Sequence[Training]) -> None:
        raise MemoryError(f"no room for {len(trainings)} runs")

    monkeypatch.setattr("prefopt.run.fit_together", broken)
    swept = cells("dpo", "model=tabular", swept=SEEDS[:2])
    assert carried_out(swept) == [MemoryError] * 2
    for cell in swept:
        assert left(cell).state == "failed"
        assert "no room for 2 runs" in (kept(cell).folder / "error.txt").read_text()


def test_a_cell_that_is_done_or_held_does_not_keep_the_others(home: Path, alone: list[str]) -> None:
    swept = cells("dpo", "model=tabular", swept=[(f"seed={seed}",) for seed in range(4)])
    written = run(configured(swept[0])[0]).results.stat().st_mtime_ns
    with kept(swept[1]).claimed():
        assert carried_out(swept) == [None, store.Taken, None, None]
    assert kept(swept[0]).results.stat().st_mtime_ns == written
    assert [left(cell).state for cell in (swept[0], *swept[2:])] == ["done"] * 3
    assert alone == []


def test_a_cell_may_need_another(home: Path) -> None:
    reward = "method.needs.reward={method: bradley_terry}"
    swept = cells("gibbs", "model=tabular", swept=[(reward,), ("method=bradley_terry",)])
    assert carried_out(swept) == [None, None]
    assert [left(cell).state for cell in swept] == ["done", "done"]


@pytest.mark.parametrize("kind", PROPORTIONAL)
@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}])
def test_the_optimisers_of_a_stack_treat_each_number_by_itself_and_in_proportion_to_the_rate(
    kind: Any, settings: dict[str, float]
) -> None:
    draws = torch.Generator().manual_seed(0)
    start = torch.randn(6, generator=draws, dtype=torch.float64)
    gradients = torch.randn(5, 6, generator=draws, dtype=torch.float64)
    more = settings | ({"momentum": 0.9} if kind is torch.optim.SGD else {})

    def stepped(rows: slice, rate: float) -> torch.Tensor:
        """The first four steps at the rate 1, and how far the fifth goes."""
        weight = torch.nn.Parameter(start[rows].clone())
        optimizer = kind([weight], lr=1.0, **more)
        for step, gradient in enumerate(gradients):
            if step == 4:
                optimizer.param_groups[0]["lr"] = rate
                before = weight.detach().clone()
            weight.grad = gradient[rows].clone()
            optimizer.step()
        return weight.detach() - before

    whole = stepped(slice(None), 1.0)
    torch.testing.assert_close(torch.cat([stepped(slice(0, 2), 1.0), stepped(slice(2, 6), 1.0)]), whole)
    torch.testing.assert_close(stepped(slice(None), 0.01), 0.01 * whole, rtol=1e-9, atol=1e-15)
