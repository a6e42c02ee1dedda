"""The RPO claim at small scale, over paired seeds, and that it can fail."""

from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from prefopt.batch import Pairs
from prefopt.claims.claim import Experiment, read
from prefopt.claims.statistics import Cell, excess
from prefopt.methods.pairwise.base import Pairwise
from prefopt.methods.pairwise.pair import Pair
from prefopt.methods.pairwise.rpo import RPO
from prefopt.reproduce import CLAIMS, run_all


def small(*, seeds: int) -> Experiment:
    """DPO and RPO alone."""
    (experiment,) = read(CLAIMS / "rpo.yaml").experiments
    arms = {arm: experiment.arms[arm] for arm in ("dpo", "eta .05")}
    tests = [test for test in experiment.tests if test.gated and "eta 1" not in test.says]
    return replace(experiment, arms=arms, tests=tests, seeds=seeds)


def verdicts(experiment: Experiment) -> dict[str, bool]:
    cells = list(run_all("rpo", experiment, jobs=1))
    return {test.says.split(",")[0]: test.holds(test.statistic(cells)) for test in experiment.tests}


def test_the_sft_term_keeps_to_the_data_and_gains_more(home: Path) -> None:
    assert verdicts(small(seeds=2)) == dict.fromkeys(("mass off the data", "log-prob of the chosen", "true gain"), True)


def test_an_anchor_of_the_wrong_sign_makes_the_claim_fail(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One on the rejected would not: it keeps to the data as well."""

    def wrong(self: RPO, pair: Pair, batch: Pairs) -> Tensor:
        return Pairwise._robust(self, pair, batch) + self.weight * pair.w.S.clamp(min=-30)

    monkeypatch.setattr(RPO, "_robust", wrong)
    assert not any(verdicts(small(seeds=2)).values())


@pytest.mark.parametrize(("rpo", "holds"), [(2.5, True), (1.5, False)])
def test_an_excess_is_over_a_multiple_of_the_others_gain(rpo: float, holds: bool) -> None:
    """The gains are 1.5 or 0.5 against 0.5, and against a loss."""
    start = {"start": 1.0}
    cells = [Cell("rpo", 0, {}, {"x": rpo, **start}), Cell("dpo", 0, {}, {"x": 1.5, **start})]
    cells += [Cell("bad", 0, {}, {"x": 0.5, **start})]
    over = excess(figure="x", better="rpo", worse="dpo", start="start", times=1.5)
    assert (over(cells) >= 0) is holds
    assert excess(figure="x", better="rpo", worse="bad", start="start", times=1.5)(cells) == pytest.approx(
        rpo - 1 + 0.75
    )
