"""The rDPO claim at small scale, over paired seeds, and that it can fail."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from prefopt.claims.claim import Experiment, read
from prefopt.claims.statistics import Cell
from prefopt.methods.pairwise.robust.unbiased import Unbiased
from prefopt.reproduce import CLAIMS, run_all


def small(name: str, *, seeds: int, **over: Sequence[float]) -> Experiment:
    experiment = next(e for e in read(CLAIMS / "rdpo.yaml").experiments if e.name == name)
    return replace(experiment, seeds=seeds, over=over or experiment.over)


def verdicts(experiment: Experiment) -> dict[str, bool]:
    cells = list(run_all("rdpo", experiment, jobs=1))
    return {test.says: test.holds(test.statistic(cells)) for test in experiment.tests if test.gated}


def test_the_error_falls_as_one_over_the_root_of_n_and_that_of_dpo_does_not_fall(home: Path) -> None:
    experiment = small("rate in n", seeds=3, **{"dataset.pairs": [1000, 16000]})
    experiment = replace(experiment, arms={arm: experiment.arms[arm] for arm in ("rdpo", "dpo")})
    assert verdicts(experiment) == {
        "slope of rDPO's error in n (theory -1/2)": True,
        "slope of DPO's error in n (a floor, so near 0)": True,
    }


def rate_in_eps(seeds: int) -> Experiment:
    """Two rates; with ten seeds the slope's standard error is about 0.1."""
    experiment = small("rate in eps", seeds=seeds, **{"noise.rate": [0.0, 0.3]})
    slope = next(test for test in experiment.tests if test.says.startswith("slope"))
    return replace(experiment, tests=[replace(slope, at_least=0.7, at_most=1.3)])


def test_the_error_grows_as_one_over_one_minus_two_eps(home: Path) -> None:
    assert all(verdicts(rate_in_eps(seeds=10)).values())


@pytest.mark.parametrize("wrong", ["sign", "uncorrected"])
def test_a_wrong_correction_makes_the_claim_fail(home: Path, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    def sign(self: Unbiased, right: Tensor, flipped: Tensor, batch: object) -> Tensor:
        return right + self.epsilon / (1 - 2 * self.epsilon) * (flipped - right)

    def uncorrected(self: Unbiased, right: Tensor, flipped: Tensor, batch: object) -> Tensor:
        return right

    monkeypatch.setattr(Unbiased, "forward", {"sign": sign, "uncorrected": uncorrected}[wrong])
    assert not any(verdicts(rate_in_eps(seeds=2)).values())


def test_the_text_experiment_asks_for_an_order_in_every_seed() -> None:
    text = next(e for e in read(CLAIMS / "rdpo.yaml").experiments if e.name == "text")
    rewards = {"clean": 3.0, "dpo": 1.0, "cdpo": 0.5, "rdpo": 2.1, "dpo at beta 0.1": 2.0}
    figures = {arm: {"gold/reward": r, "gold/reward_start": 0.4, "gold/kl": 1.0} for arm, r in rewards.items()}
    cells = [Cell(arm, seed, {}, dict(figures[arm])) for arm in text.arms for seed in range(3)]
    assert all(test.holds(test.statistic(cells)) for test in text.tests)
    broken = [
        replace(cell, figures=cell.figures | {"gold/reward": 0.9}) if (cell.arm, cell.seed) == ("rdpo", 2) else cell
        for cell in cells
    ]
    assert not all(test.holds(test.statistic(broken)) for test in text.tests if test.gated)
