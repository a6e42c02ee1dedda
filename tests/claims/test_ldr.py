"""The LDR claim at small scale, and that it can fail."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prefopt.claims.claim import read
from prefopt.claims.statistics import Cell
from prefopt.methods.reward import ldr
from prefopt.methods.reward.choice import chosen
from prefopt.methods.reward.ldr import LDR
from prefopt.reproduce import CLAIMS, run_all

OVER_CE = "accuracy, ALDR-KL over CE, least of the seeds"
RATIO = "squared ratio of the temperatures of wrong labels to those of right ones, at lam_0 1"
NEEDED = {OVER_CE: {"ce", "aldr"}, RATIO: {"aldr 1"}}
QUICK = ["dataset.instances=1000", "dataset.test_instances=1000"]


def verdicts(*arms: str) -> dict[str, bool]:
    """Of the tests on 60 % uniform noise that can be made of these arms, on a third of the data and with one seed."""
    experiment = next(e for e in read(CLAIMS / "ldr.yaml").experiments if e.name == "60 % uniform")
    own = {arm: experiment.arms[arm] for arm in arms}
    small = replace(experiment, base=[*experiment.base, *QUICK], arms=own, seeds=1)
    cells: list[Cell] = list(run_all("ldr", small, jobs=1))
    tests = [test for test in experiment.tests if test.says in NEEDED and NEEDED[test.says] <= set(arms)]
    return {test.says: test.holds(test.statistic(cells)) for test in tests}


def test_what_cross_entropy_learns_by_heart_ldr_does_not_and_wrong_labels_keep_their_temperature(home: Path) -> None:
    assert verdicts("ce", "aldr", "aldr 1") == {OVER_CE: True, RATIO: True}


def test_a_loss_of_one_temperature_for_all_makes_the_claim_fail(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ldr, "stepped", lambda d, lam, **_: lam)
    assert verdicts("aldr 1") == {RATIO: False}


def test_scores_that_are_not_normalised_make_the_claim_fail(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gaps(self: LDR, r: Tensor, label: Tensor) -> Tensor:
        others = torch.arange(r.shape[1]) != label[:, None]
        return r - chosen(r, label)[:, None] + self.margin * others

    monkeypatch.setattr(LDR, "_gaps", gaps)
    assert verdicts("ce", "aldr") == {OVER_CE: False}
