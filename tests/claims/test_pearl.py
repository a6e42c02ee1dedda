"""The PEARL claim at small scale, over paired seeds, and that it can fail."""

from dataclasses import replace
from pathlib import Path

import pytest

from prefopt.claims.claim import Experiment, read
from prefopt.claims.statistics import Cell, ratio, won
from prefopt.datasets.transfer import Coupling
from prefopt.reproduce import CLAIMS, run_all

EXPERIMENTS = {experiment.name: experiment for experiment in read(CLAIMS / "pearl.yaml").experiments}
RIGHT, LEAST = "labels transferred right", "labels transferred right, least of the seeds"
NEAREST = "labels of the nearest trajectories right (chance 0.5)"
QUICK = ("dataset.trajectories=20", "rounds=80")
VARIANCE = "mean variance of a step at the end, least of the seeds (half of that at a floor of 1 nat is 0.216)"


def small(name: str, arms: tuple[str, ...], tests: tuple[str, ...], *more: str, seeds: int) -> Experiment:
    experiment = EXPERIMENTS[name]
    return replace(
        experiment,
        base=[*experiment.base, *more],
        arms={arm: experiment.arms[arm] for arm in arms},
        tests=[test for test in experiment.tests if test.says in tests],
        seeds=seeds,
    )


def verdicts(experiment: Experiment) -> dict[str, bool]:
    cells = list(run_all("pearl", experiment, jobs=1))
    return {test.says: test.holds(test.statistic(cells)) for test in experiment.tests}


def transfer(seeds: int = 2) -> Experiment:
    return small("transfer", ("transferred",), (RIGHT, LEAST), "rounds=1", "dataset.test_pairs=10", seeds=seeds)


def test_labels_reach_the_other_task(home: Path) -> None:
    assert verdicts(transfer()) == {RIGHT: True, LEAST: True}


def test_the_nearest_trajectories_do_not_carry_labels(home: Path) -> None:
    experiment = small("transfer", ("nearest",), (NEAREST,), "rounds=1", "dataset.test_pairs=10", seeds=8)
    assert verdicts(experiment) == {NEAREST: True}


def test_a_coupling_that_is_not_heeded_makes_the_claim_fail(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Coupling, "transferred", lambda self, Z: Z)
    assert verdicts(transfer(seeds=1)) == {RIGHT: False, LEAST: False}


def test_a_variance_without_a_floor_collapses_and_makes_the_claim_fail(home: Path) -> None:
    kept, lost = (
        small("variance", ("rrl",), (VARIANCE,), *more, seeds=1) for more in (QUICK, (*QUICK, "method.floor=0"))
    )
    assert verdicts(kept) == {VARIANCE: True}
    assert verdicts(lost) == {VARIANCE: False}


def test_a_ratio_is_of_means_and_what_is_won_is_a_share_of_seeds() -> None:
    cells = [
        Cell(arm, seed, {}, {"x": x}) for arm, xs in {"a": [1, 5], "b": [2, 2]}.items() for seed, x in enumerate(xs)
    ]
    assert ratio(figure="x", arm="a", other="b")(cells) == 1.5
    assert won(figure="x", better="a", worse="b")(cells) == 0.5
    assert won(figure="x", better="b", worse="b")(cells) == 0, "a tie is not won"
