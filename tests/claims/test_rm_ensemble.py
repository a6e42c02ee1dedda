"""The claim of cautious ensembles in one seed, and that it can fail."""

from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

import prefopt.models.scorer
from prefopt.claims.claim import Experiment, read
from prefopt.claims.statistics import Cell
from prefopt.reproduce import CLAIMS, run_all


def small(name: str, *arms: str) -> Experiment:
    experiment = next(e for e in read(CLAIMS / "rm_ensemble.yaml").experiments if e.name == name)
    return replace(experiment, seeds=1, arms={arm: experiment.arms[arm] for arm in arms})


def verdicts(experiment: Experiment, says: str) -> list[bool]:
    cells = list(run_all("rm_ensemble", experiment, jobs=1))
    return [test.holds(test.statistic(cells)) for test in experiment.tests if test.gated and says in test.says]


def test_what_is_cautious_is_not_over_optimised(home: Path) -> None:
    assert verdicts(small("best of n", "single", "uncertainty"), "uncertainty-weighted over single") == [True, True]
    assert verdicts(small("matched KL", "mean", "uncertainty"), "uncertainty-weighted over mean") == [True]


def test_what_likes_to_be_surprised_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def optimistic(rewards: Tensor, lam: float) -> Tensor:
        return rewards.mean(0) + lam * rewards.var(0, correction=0)

    monkeypatch.setattr(prefopt.models.scorer, "uncertainty_weighted", optimistic)
    assert verdicts(small("best of n", "single", "uncertainty"), "uncertainty-weighted over single") == [False, False]
    assert verdicts(small("matched KL", "mean", "uncertainty"), "uncertainty-weighted over mean") == [False]


def test_ppo_is_asked_for_an_order_in_every_seed() -> None:
    ppo = next(e for e in read(CLAIMS / "rm_ensemble.yaml").experiments if e.name == "ppo")

    def cells(*gains: float) -> list[Cell]:
        arms = [("single", [0.0] * len(gains)), ("uncertainty", gains)]
        return [Cell(arm, seed, {}, {"gold/standardised": gain}) for arm, of in arms for seed, gain in enumerate(of)]

    (test,) = [test for test in ppo.tests if test.gated]
    assert test.holds(test.statistic(cells(0.1, 0.2)))
    assert not test.holds(test.statistic(cells(-0.1, 0.9)))
