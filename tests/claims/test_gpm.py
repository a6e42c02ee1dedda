"""The GPM claim at small scale, and that each part of it can fail."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prefopt.claims.claim import Experiment, read
from prefopt.claims.statistics import Cell
from prefopt.methods.iterative.multiplicative_weights import MultiplicativeWeights
from prefopt.models import preference
from prefopt.reproduce import CLAIMS, run_all


def small(name: str, *arms: str, seeds: int, more: Sequence[str] = ()) -> Experiment:
    """Gated tests of these arms, with fewer seeds."""
    experiment = next(e for e in read(CLAIMS / "gpm.yaml").experiments if e.name == name)
    own = {arm: [*experiment.arms[arm], *more] for arm in arms}
    return replace(experiment, arms=own, seeds=seeds, tests=[test for test in experiment.tests if test.gated])


def verdicts(experiment: Experiment) -> list[bool]:
    cells = list(run_all("gpm", experiment, jobs=1))
    return [test.holds(test.statistic(cells)) for test in experiment.tests]


CYCLES = ("dataset.contexts=200", "dataset.test_contexts=100", "rounds=40")


def test_gpm_fits_circles_and_bradley_terry_does_not(home: Path) -> None:
    assert verdicts(small("cycles", "gpm", "bradley_terry", seeds=1, more=CYCLES)) == [True, True]


def scalar(v: Tensor, w: Tensor, lam: Tensor | None = None) -> Tensor:
    """Bradley-Terry on the first number of the embedding."""
    return v[..., :, None, 0] - w[..., None, :, 0]


@pytest.mark.parametrize("wrong", [scalar, lambda v, w, lam=None: -scalar(v, w)], ids=["scalar", "turned"])
def test_a_form_that_is_a_reward_makes_it_fail(home: Path, monkeypatch: pytest.MonkeyPatch, wrong: object) -> None:
    monkeypatch.setattr(preference, "scores", wrong)
    cells = list(run_all("gpm", experiment := small("cycles", "gpm", seeds=1, more=CYCLES), jobs=1))
    assert not experiment.tests[0].holds(experiment.tests[0].statistic(cells))


def test_the_average_nears_the_equilibrium_and_the_last_policy_circles(home: Path) -> None:
    assert verdicts(small("game", "gpo", seeds=1)) == [True, True, True, True]


def losing(self: MultiplicativeWeights, round: int) -> None:
    """What earns least is played more."""
    self.average.add(self.policy)
    pi = self.policy.table().exp()[self.contexts]
    with torch.no_grad():
        self.policy.f.values[self.contexts] -= self.step * (self.payoffs @ pi[..., None])[..., 0]


def still(self: MultiplicativeWeights, round: int) -> None:
    """Nothing moves."""
    self.average.add(self.policy)


@pytest.mark.parametrize("wrong", [losing, still])
def test_an_update_in_the_wrong_direction_or_none_makes_it_fail(
    home: Path, monkeypatch: pytest.MonkeyPatch, wrong: object
) -> None:
    monkeypatch.setattr(MultiplicativeWeights, "finish", wrong)
    average, shares, ratio, _ = verdicts(small("game", "gpo", seeds=1, more=["rounds=1000", "method.beta=31.6"]))
    assert not average and not shares and not ratio


def test_self_play_on_gpm_is_exploited_less_than_on_bradley_terry_and_not_once_the_two_are_exchanged(
    home: Path,
) -> None:
    ours, control = "gpo", "gpo on bradley_terry"
    experiment = small("policies", ours, control, seeds=1, more=["rounds=40"])
    (test,) = [test for test in experiment.tests if "GPO on Bradley-Terry over GPO" in test.says]
    cells = list(run_all("gpm", experiment, jobs=1))
    assert test.holds(test.statistic(cells))
    exchanged = {ours: control, control: ours}
    assert not test.holds(test.statistic([replace(cell, arm=exchanged[cell.arm]) for cell in cells]))


@pytest.mark.parametrize(("arm", "fails"), [("dpo", [False, True]), ("gpo on bradley_terry", [True, False])])
def test_one_seed_that_goes_another_way_makes_it_fail(arm: str, fails: list[bool]) -> None:
    experiment = small("policies", seeds=3)
    value = {"gpo": 0.03, "gpo on bradley_terry": 0.06, "dpo": 0.05}
    cells = [
        Cell(name, seed, {}, {"exploitability/average": 0.01 if (name, seed) == (arm, 2) else known})
        for name, known in value.items()
        for seed in range(3)
    ]
    assert [test.holds(test.statistic(cells)) for test in experiment.tests] == fails
