"""The LCPO claim at small scale, over paired seeds, and that it can fail."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prefopt.claims.claim import Experiment, read
from prefopt.claims.statistics import Cell
from prefopt.methods.pairwise.robust.em import EM
from prefopt.methods.pairwise.robust.reliability import Reliability
from prefopt.reproduce import CLAIMS, run_all

ERROR = "parameter error, LCPO over DPO, largest of the seeds"
RATES = "estimated less true flip rate, largest of annotators and seeds"
AUROC = "AUROC of w for flipped labels, least of the seeds"
STARTS = "estimates from eta0 0.55 and 0.99, largest difference of annotators and seeds"
QUICK = ("dataset.pairs=8000", "optimizer.lr=0.05")


def small(*arms: str, seeds: int, rounds: int = 8) -> Experiment:
    """The annotators' experiment with these arms, fewer pairs and passes, and those tests that can be made of them."""
    experiment = next(e for e in read(CLAIMS / "lcpo.yaml").experiments if e.name == "annotators")
    needed = {ERROR: {"dpo", "lcpo"}, RATES: {"lcpo"}, AUROC: {"lcpo"}, STARTS: {"lcpo from 0.55", "lcpo from 0.99"}}
    tests = [test for test in experiment.tests if test.says in needed and needed[test.says] <= set(arms)]
    chosen = {arm: [*experiment.arms[arm], *QUICK, f"rounds={rounds}"] for arm in arms}
    return replace(experiment, arms=chosen, tests=tests, seeds=seeds)


def verdicts(experiment: Experiment) -> dict[str, bool]:
    cells = list(run_all("lcpo", experiment, jobs=1))
    return {test.says: test.holds(test.statistic(cells)) for test in experiment.tests}


def test_em_finds_the_annotators_and_a_policy_near_that_of_clean_labels(home: Path) -> None:
    assert verdicts(small("dpo", "lcpo", seeds=2)) == {ERROR: True, RATES: True, AUROC: True}


def test_where_em_starts_does_not_matter(home: Path) -> None:
    assert verdicts(small("lcpo from 0.55", "lcpo from 0.99", seeds=2, rounds=16)) == {STARTS: True}


def fixed(self: Reliability) -> None:
    """eta stays where it starts."""


def frozen(self: EM, right: Tensor, flipped: Tensor, batch: Any) -> Tensor:
    """Every label is trusted alike."""
    return torch.full_like(right, 0.9)


def sign(self: EM, right: Tensor, flipped: Tensor, batch: Any) -> Tensor:
    """The probability that the label is wrong."""
    eta = self.reliability.of(batch.annotator, right)
    return (right - flipped + eta.logit()).sigmoid().detach()


@pytest.mark.parametrize(
    ("part", "hook", "wrong", "fails"),
    [
        (Reliability, "learn", fixed, {RATES}),
        (EM, "trust", frozen, {RATES, AUROC}),
        (EM, "trust", sign, {RATES, AUROC}),
    ],
    ids=["eta fixed", "weights frozen", "wrong sign"],
)
def test_em_that_is_wrong_makes_the_claim_fail(
    home: Path, monkeypatch: pytest.MonkeyPatch, part: type, hook: str, wrong: Callable[..., Any], fails: set[str]
) -> None:
    monkeypatch.setattr(part, hook, wrong)
    found = verdicts(small("lcpo", seeds=1))
    assert {says for says, holds in found.items() if not holds} == fails


def test_frozen_weights_leave_dpo_s_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EM, "trust", frozen)
    assert not verdicts(small("dpo", "lcpo", seeds=1))[ERROR]


def test_the_text_experiment_asks_for_an_order_in_every_seed() -> None:
    text = next(e for e in read(CLAIMS / "lcpo.yaml").experiments if e.name == "text")
    figures = {"gold/kl": 1.0, "eval/noise/eps_hat": 0.1, "noise/detect_auroc": 0.8}
    cells = [
        Cell(arm, seed, {}, figures | {"gold/reward": 1.0 + (arm == "lcpo")}) for arm in text.arms for seed in range(3)
    ]
    assert all(test.holds(test.statistic(cells)) for test in text.tests)
    for figure, value, failing in (("gold/reward", 0.9, "gold reward"), ("noise/detect_auroc", 0.7, "AUROC")):
        broken = [
            replace(cell, figures=cell.figures | {figure: value}) if (cell.arm, cell.seed) == ("lcpo", 2) else cell
            for cell in cells
        ]
        failed = [test.says for test in text.tests if not test.holds(test.statistic(broken))]
        assert len(failed) == 1 and failed[0].startswith(failing)
