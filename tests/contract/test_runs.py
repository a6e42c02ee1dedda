"""What every method promises as a run: blind to the truth, a function of its seed, resumable, exported whole."""

import signal
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import get_class

import prefopt.run
from prefopt.datasets.data import Data, Split, Truth
from prefopt.errors import Interrupted
from prefopt.methods.base import Method
from prefopt.models.ensemble import opened


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and len(a) > 0 and all(torch.equal(a[name], b[name]) for name in a)


def test_training_changes_what_it_trains_and_a_run_ends_with_figures(row: Any, lab: Any) -> None:
    outcome = lab.usual(row)
    assert outcome.stored.done
    assert outcome.figures
    assert all(np.isfinite(value) for name, value in outcome.figures.items() if not name.endswith("_se"))
    if row.method.trains:
        steps = [step for step, metrics in outcome.events if "loss" in metrics]
        assert steps == sorted(set(steps)) and len(steps) >= 3


def test_the_same_seed_gives_the_same_run_and_another_seed_another(row: Any, lab: Any) -> None:
    first, again, other = lab.usual(row), lab.run(row), lab.run(row, "seed=1")
    assert same(first.weights, again.weights)
    assert (first.figures, first.events) == (again.figures, again.events)
    assert first.figures != other.figures
    if row.method.trains:
        assert not same(first.weights, other.weights)


def scrambled(split: Split, seed: int) -> Split:
    draw, n = np.random.default_rng(seed), len(split.pairs)
    truth = Truth(label=draw.integers(2, size=n), flipped=draw.random(n) < 0.5, gold=draw.standard_normal((n, 2)))
    return replace(split, truth=truth)


def test_no_weight_depends_on_the_truth(row: Any, lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original, usual = prefopt.run.noisy, lab.usual(row)

    def noisy(data: Data, noise: Any, seed: int) -> Data:
        data = original(data, noise, seed)
        return replace(data, train=scrambled(data.train, 1), test=scrambled(data.test, 2))

    monkeypatch.setattr(prefopt.run, "noisy", noisy)
    blind = lab.run(row)
    assert same(usual.weights, blind.weights)
    assert usual.figures != blind.figures, "the evaluation did not meet the scrambled truth"


def test_micro_batches_train_as_the_whole_batch_does(row: Any, lab: Any) -> None:
    if row.method.coupled:  # refused, see test_contract
        return
    plain_descent = (
        "optimizer._target_=torch.optim.SGD",
        "~optimizer.betas",
        "~optimizer.fused",
        "optimizer.lr=0.5",
        f"rounds={row.method.least_rounds}",
    )
    needs = {
        role: need for role, need in row.default.method.needs.items() if role not in ("policy", *row.method.trains)
    }
    given = [f"+method.needs.{role}.micro_batch_size=null" for role, need in needs.items() if not isinstance(need, str)]
    whole, parts = (lab.run(row, *plain_descent, *given, f"micro_batch_size={size}") for size in ("null", "3"))
    exact = next(iter(whole.weights.values())).dtype == torch.float64
    if row.method.trains:  # what trains nothing has no batches; what it needs takes Adam's steps, not plain ones
        for name, value in whole.weights.items():
            torch.testing.assert_close(parts.weights[name], value, rtol=0, atol=1e-12 if exact else 1e-6)
        first = [next(metrics for _, metrics in outcome.events if "loss" in metrics) for outcome in (whole, parts)]
        assert first[0]["grad_norm"] > 1e-3
        for metrics in first:  # at the first step reward margins are rounding errors, and their signs are of no worth
            metrics.pop("rewards/accuracies", None)
        assert first[0] == pytest.approx(first[1], rel=1e-5, abs=1e-6)


class Crash(Exception):
    pass


def test_a_run_that_was_stopped_and_killed_ends_as_one_that_never_was(
    row: Any, lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of a round and at a round's end, and killed two steps after the newest checkpoint."""
    whole = lab.usual(row)
    ends = iter([((0, 1), signal.SIGTERM), ((1, "last"), signal.SIGTERM), ((2, 1), None)])
    plan, steps = [next(ends)], []
    train = Method.training_step

    def training_step(self: Method, batch: Any, batch_idx: int) -> None:
        train(self, batch, batch_idx)
        assert self.trainer is not None
        steps.append(self.global_step)
        if plan and (self.current_epoch, "last" if self.trainer.is_last_batch else batch_idx) == plan[0][0]:
            how = plan.pop()[1]
            if how is None:
                raise Crash
            signal.raise_signal(how)

    def finish(self: Method, round: int) -> None:
        if plan and round == 1:
            plan.clear()
            raise Crash

    wanted: type[Exception]
    if row.method.trains:
        monkeypatch.setattr(Method, "training_step", training_step)
        stops: list[type[Exception]] = [Interrupted, Interrupted, Crash]
    else:
        monkeypatch.setattr(get_class(row.default.method._target_), "finish", finish)
        stops = [Crash]
    for wanted in stops:
        with pytest.raises(wanted):
            lab.run(row, home=f"stopped-{row}")
        assert not plan
        plan.extend([step for step in [next(ends, None)] if step])
    monkeypatch.undo()
    resumed = lab.run(row, home=f"stopped-{row}")
    assert same(whole.weights, resumed.weights)
    assert resumed.events == whole.events
    assert resumed.figures == whole.figures


@torch.no_grad()
def test_what_was_exported_opens_again_as_it_was(row: Any, lab: Any) -> None:
    outcome = lab.usual(row)
    parts, data, stored = outcome.parts, outcome.data, outcome.stored
    role = parts.method.trains[0] if parts.method.trains else "policy"
    tokenizer = parts.model.tokenizer(parts.dataset, next(stored.policy.rglob("*.safetensors")).parent)
    if role == "reward":
        judges, again = "score", opened(stored.policy, partial(parts.model.reward, data, tokenizer))
    else:
        judges, again = "logps", parts.model.policy(data, tokenizer, stored.policy)
    batch = data.test.pairs.batch(np.arange(8))
    values = getattr(again, judges)(batch)
    assert torch.equal(values, getattr(getattr(parts.method, role), judges)(batch))
    assert values.abs().sum() > 0
