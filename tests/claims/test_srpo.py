"""The SRPO claim at small scale, and that it can fail."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from prefopt.claims.claim import Experiment, read
from prefopt.methods.pairwise.srpo import SRPO
from prefopt.reproduce import CLAIMS, run_all


def small(name: str, laws: int, seeds: int = 1) -> Experiment:
    experiment = next(e for e in read(CLAIMS / "srpo.yaml").experiments if e.name == name)
    arms = {arm: experiment.arms[arm] for arm in ("srpo", "ipo")}
    tests = [test for test in experiment.tests if test.gated]
    over = {"dataset.mu": experiment.over["dataset.mu"][:laws]}
    return replace(experiment, arms=arms, over=over, tests=tests, seeds=seeds)


def verdicts(experiment: Experiment) -> list[bool]:
    cells = list(run_all("srpo", experiment, jobs=1))
    return [test.holds(test.statistic(cells)) for test in experiment.tests]


def test_the_solution_is_the_same_for_every_law_and_that_of_ipo_is_not(home: Path) -> None:
    assert verdicts(small("cycle", laws=4)) == [True, True]


def test_so_it_is_in_games_that_were_drawn(home: Path) -> None:
    assert verdicts(replace(small("games", laws=2, seeds=2), arms={"srpo": small("games", 1).arms["srpo"]})) == [True]


Error = Callable[[SRPO, Tensor, Tensor, Tensor], Tensor]


def sign(error: Error) -> Error:
    return lambda self, lr, ld, label: error(self, lr, -ld, label)


def frozen(error: Error) -> Error:
    return lambda self, lr, ld, label: error(self, lr, 0 * ld, label)


@pytest.mark.parametrize("wrong", [sign, frozen])
def test_wrong_or_frozen_revisions_make_it_fail(
    home: Path, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Error], Error]
) -> None:
    monkeypatch.setattr(SRPO, "_error", wrong(SRPO._error))
    experiment = small("cycle", laws=2)
    assert verdicts(replace(experiment, arms={"srpo": experiment.arms["srpo"]}, tests=experiment.tests[:1])) == [False]
