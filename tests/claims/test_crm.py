"""The CRM claim at small scale, and that it can fail."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prefopt.claims.claim import Experiment, read
from prefopt.claims.statistics import Cell
from prefopt.methods.reward.crm import CRM
from prefopt.reproduce import CLAIMS, run_all

OVER = "accuracy, CRM over Bradley-Terry, least of the seeds"
MEAN = "accuracy, CRM over Bradley-Terry"
KEPT = "right labels among the pairs that it would keep in the end, least of the seeds (of all, 0.6)"
QUICK = ["dataset.contexts=2", "dataset.test_pairs=1000", "batch_size=128", "optimizer.lr=4e-3", "rounds=10"]


def experiment(name: str = "40 % flips") -> Experiment:
    return next(e for e in read(CLAIMS / "crm.yaml").experiments if e.name == name)


def verdicts() -> dict[str, bool]:
    """Of CRM against one model, with larger batches and one seed."""
    whole = experiment()
    arms = {arm: whole.arms[arm] for arm in ("bradley_terry", "crm")}
    small = replace(whole, base=[*whole.base, *QUICK], arms=arms, seeds=1)
    cells = list(run_all("crm", small, jobs=1))
    return {test.says: test.holds(test.statistic(cells)) for test in whole.tests if test.says in (OVER, MEAN, KEPT)}


def test_two_that_choose_for_each_other_learn_what_one_alone_does_not(home: Path) -> None:
    assert verdicts() == {OVER: True, MEAN: True, KEPT: True}


@pytest.mark.parametrize("wrong", ["hard first", "by chance"])
def test_a_wrong_review_makes_the_claim_fail(home: Path, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    def reviewed(self: CRM, margins: Tensor) -> Tensor:
        chance = torch.randn(margins.shape, generator=self.generator(9), dtype=margins.dtype)
        return {"hard first": -margins.flip(0), "by chance": chance}[wrong]

    monkeypatch.setattr(CRM, "_reviewed", reviewed)
    assert verdicts() == {OVER: False, MEAN: False, KEPT: False}


FIGURES = {"noise/precision": 0.85, "eval/crm/agreement": 0.95}
ACCURACY = {
    "bradley_terry": 0.64,
    "crm": 0.85,
    "self": 0.83,
    "shuffle": 0.83,
    "sort and batch": 0.6,
    "two independent": 0.66,
}


@pytest.mark.parametrize(("arm", "fails"), [("crm", 4), ("shuffle", 1), ("bradley_terry", 3)])
def test_the_order_of_the_card_is_asked_for(arm: str, fails: int) -> None:
    def failed(accuracy: dict[str, float]) -> int:
        cells = [
            Cell(a, seed, {}, FIGURES | {"eval/rewards/accuracies": x})
            for a, x in accuracy.items()
            for seed in range(6)
        ]
        return sum(not test.holds(test.statistic(cells)) for test in experiment().tests if test.gated)

    assert failed(ACCURACY) == 0
    lower = {"crm": 0.62, "shuffle": 0.63, "bradley_terry": 0.9}
    assert failed(ACCURACY | {arm: lower[arm]}) == fails
