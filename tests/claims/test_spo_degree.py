"""The claim of preference degrees at small scale, over paired seeds, and that it can fail."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefopt.claims.claim import Experiment, read
from prefopt.claims.statistics import Cell
from prefopt.methods.pairwise import spo_degree
from prefopt.methods.pairwise.degrees import degraded
from prefopt.reproduce import CLAIMS, run_all
from prefopt.table import Table

SMALL = ("dataset.pairs=1000", "dataset.test_pairs=200", "dataset.demonstrations=1000", "rounds=6", "batch_size=64")
SMALL += ("model.layers=1", "evaluation.prompts=4")


def experiment(arms: Sequence[str], tests: int, seeds: int) -> Experiment:
    (whole,) = read(CLAIMS / "spo_degree.yaml").experiments
    kept = {arm: whole.arms[arm] for arm in arms}
    return replace(whole, base=[*whole.base, *SMALL], arms=kept, tests=whole.tests[:tests], seeds=seeds)


def verdicts(experiment: Experiment) -> list[bool]:
    cells = list(run_all("spo_degree", experiment, jobs=1))
    return [test.holds(test.statistic(cells)) for test in experiment.tests]


def test_the_trunk_learns_degrees_beyond_what_was_in_it(home: Path) -> None:
    assert verdicts(experiment(["spo", "frozen"], tests=2, seeds=2)) == [True, True]


def test_degrees_of_other_responses_cannot_be_learned(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(table: Table, tokenizer: Any, **settings: Any) -> Table:
        found = degraded(table, tokenizer, **settings)
        return replace(found, columns={**found.columns, "degree": np.roll(found.columns["degree"], 1, axis=0)})

    monkeypatch.setattr(spo_degree, "degraded", wrong)
    assert verdicts(experiment(["spo"], tests=1, seeds=1)) == [False]


def test_what_is_lost_at_equal_kl_makes_it_fail() -> None:
    (whole,) = read(CLAIMS / "spo_degree.yaml").experiments
    frontier = {"dpo": (3.0, 4.0), "dpo at beta 0.7": (2.0, 3.0), "dpo at beta 0.4": (4.0, 4.5)}
    (test,) = [test for test in whole.tests if "equal KL" in test.says]
    for reached, holds in ((3.35, True), (3.3, False)):
        points = {**frontier, "spo": (2.5, 3.5), "frozen": (0.0, 0.5)}
        cells = [
            Cell(arm, seed, {}, {"gold/kl": kl, "gold/reward": reward})
            for arm, (kl, reward) in points.items()
            for seed in range(3)
        ]
        last = next(i for i, cell in enumerate(cells) if (cell.arm, cell.seed) == ("spo", 2))
        cells[last] = replace(cells[last], figures={"gold/kl": 2.5, "gold/reward": reached})
        assert test.holds(test.statistic(cells)) is holds
