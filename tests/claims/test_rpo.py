"""The RPO claim at small scale, over paired seeds, and that it can fail."""

from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from prefopt.batch import Pairs
from prefopt.claims.claim import Experiment, read
from prefopt.methods.pairwise.base import Pairwise
from prefopt.methods.pairwise.pair import Pair
from prefopt.methods.pairwise.rpo import RPO
from prefopt.reproduce import CLAIMS, run_all


def small(*, seeds: int, rounds: int = 100) -> Experiment:
    """DPO and RPO alone."""
    (experiment,) = read(CLAIMS / "rpo.yaml").experiments
    arms = {arm: experiment.arms[arm] for arm in ("dpo", "eta .05")}
    tests = [test for test in experiment.tests if test.gated and "eta 1" not in test.says]
    return replace(experiment, base=[*experiment.base, f"rounds={rounds}"], arms=arms, tests=tests, seeds=seeds)


def verdicts(experiment: Experiment) -> dict[str, bool]:
    cells = list(run_all("rpo", experiment, jobs=1))
    return {test.says.split(",")[0]: test.holds(test.statistic(cells)) for test in experiment.tests}


def test_the_sft_term_keeps_to_the_data_and_gains_more(home: Path) -> None:
    assert verdicts(small(seeds=2)) == dict.fromkeys(("mass off the data", "log-prob of the chosen", "true gain"), True)


def test_an_anchor_on_the_rejected_makes_the_claim_fail(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: RPO, pair: Pair, batch: Pairs) -> Tensor:
        return Pairwise._robust(self, pair, batch) + self.weight * pair.w.S.clamp(min=-30)

    monkeypatch.setattr(RPO, "_robust", wrong)
    assert not any(verdicts(small(seeds=2, rounds=20)).values())
