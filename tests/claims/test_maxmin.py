"""The MaxMin claim at small scale, and that it can fail."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import prefopt.methods.selection.maxmin
from prefopt.claims.claim import Experiment, read
from prefopt.methods.reward.membership import Membership
from prefopt.reproduce import CLAIMS, run_all


def small(name: str, arms: tuple[str, ...], seeds: int, says: tuple[str, ...]) -> Experiment:
    experiment = next(e for e in read(CLAIMS / "maxmin.yaml").experiments if e.name == name)
    tests = [test for test in experiment.tests if test.gated and test.says.startswith(says)]
    return replace(experiment, seeds=seeds, arms={arm: experiment.arms[arm] for arm in arms}, tests=tests)


def verdicts(experiment: Experiment) -> list[bool]:
    cells = list(run_all("maxmin", experiment, jobs=1))
    return [test.holds(test.statistic(cells)) for test in experiment.tests]


MINORITY = ("win rate of the worse-off group at 10:1", "win rate, mean", "annotators in the cluster of their group")


def minority(seeds: int = 1) -> Experiment:
    return small("minority", ("maxmin", "single", "em"), seeds, MINORITY)


def three(seeds: int = 1) -> Experiment:
    return small("three groups", ("maxmin", "per sample", "mean"), seeds, ("utility", "the same"))


def test_a_minority_is_served_as_well_and_its_annotators_are_found(home: Path) -> None:
    assert verdicts(minority(seeds=2)) == [True, True, True]


def test_the_worst_off_of_three_groups_is_served_better_than_by_either_shortcut(home: Path) -> None:
    assert verdicts(three(seeds=2)) == [True, True]


def test_clusters_that_stay_as_they_were_drawn_make_it_fail(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Membership, "expect", lambda self, ll: None)
    ratio, _, found = verdicts(minority())
    assert (ratio, found) == (False, False)


def test_weights_that_look_at_no_utility_make_it_fail(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def alike(r: Tensor, reference: Tensor, beta: float) -> Tensor:
        return torch.full((len(r),), 1 / len(r), dtype=r.dtype)

    monkeypatch.setattr(prefopt.methods.selection.maxmin, "worst", alike)
    assert verdicts(three())[0] is False
