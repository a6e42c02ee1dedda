"""The subset selection claim at small scale, over paired seeds, and that it can fail."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefopt.claims import statistics
from prefopt.claims.claim import Experiment, read
from prefopt.claims.statistics import Cell
from prefopt.evaluation import elections
from prefopt.reproduce import CLAIMS, run_all

EXPERIMENTS = {experiment.name: experiment for experiment in read(CLAIMS / "subset_selection.yaml").experiments}
GAIN = "Borda at a shift of 4 and 100 rankings, share of the best F that the bound adds"
LEAST = "the same, least of the seeds"
FIRST = "rankings that the first place needs for 0.98 at a shift of 4, over those at none"
SWAPS = (
    "Borda with half of the ten from the group, least of the seeds",
    "Borda at the best bound, least of the seeds",
    "ahead of Bloc, least of the seeds",
    "ahead of the first place, least of the seeds",
)


def verdicts(experiment: Experiment) -> dict[str, bool]:
    cells = list(run_all("subset_selection", experiment, jobs=1))
    return {test.says: test.holds(test.statistic(cells)) for test in experiment.tests}


def small(name: str, arms: tuple[str, ...], tests: tuple[str, ...], *, seeds: int, rankers: Any = None) -> Experiment:
    experiment = EXPERIMENTS[name]
    return replace(
        experiment,
        arms={arm: experiment.arms[arm] for arm in arms},
        over={"dataset.rankers": rankers} if rankers else {},
        tests=[test for test in experiment.tests if test.says in tests],
        seeds=seeds,
    )


def utilities() -> Experiment:
    return small("utilities", ("borda, shift 4",), (GAIN, LEAST), seeds=3, rankers=[100])


def test_the_bound_repairs_borda_from_few_rankings(home: Path) -> None:
    assert verdicts(utilities()) == {GAIN: True, LEAST: True}


def test_the_first_place_needs_many_more(home: Path) -> None:
    arms = ("sntv, no shift", "sntv, shift 4")
    experiment = small("utilities", arms, (FIRST,), seeds=2, rankers=[1000, 10000])
    assert verdicts(experiment) == {FIRST: True}


def test_under_swaps_borda_is_ahead(home: Path) -> None:
    assert verdicts(small("swaps", ("borda", "bloc", "sntv"), SWAPS, seeds=1)) == dict.fromkeys(SWAPS, True)


def test_a_bound_that_is_not_heeded_makes_the_claim_fail(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heeded = elections.chosen
    monkeypatch.setattr(elections, "chosen", lambda *args, **more: heeded(*args, **more | {"least": 0}))
    assert not verdicts(utilities())[GAIN]
    alone = small("swaps", ("borda",), SWAPS[:2], seeds=1)
    assert verdicts(alone) == dict.fromkeys(SWAPS[:2], False)


def test_a_bound_that_is_met_by_the_worst_makes_the_claim_fail(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heeded = elections.chosen

    def upside_down(rule: Any, points: Any, *, least: int, **more: Any) -> list[int]:
        return heeded(rule, -points if least else points, least=least, **more)

    monkeypatch.setattr(elections, "chosen", upside_down)
    assert verdicts(utilities()) == {GAIN: False, LEAST: False}


def cells(values: dict[str, list[float]]) -> list[Cell]:
    """Of arms over a grid n = 1, 10, 100."""
    return [
        Cell(arm, seed, {"n": n}, {"x": x, "y": 0.1})
        for arm, xs in values.items()
        for n, x in zip((1, 10, 100), xs, strict=True)
        for seed in range(2)
    ]


def test_what_is_needed_is_the_first_place_that_reaches_the_level() -> None:
    needed = statistics.needed_ratio(figure="x", level=0.9, against="n", arm="a", other="b")
    assert needed(cells({"a": [0, 0.5, 0.95], "b": [0.2, 0.92, 1]})) == 10
    assert needed(cells({"a": [0, 0.5, 0.8], "b": [0.2, 0.92, 1]})) == float("inf")
    assert np.isnan(needed(cells({"a": [0, 0.5, 1], "b": [0.2, 0.3, 0.4]})))


def test_gains_and_changes_are_at_their_places() -> None:
    given = cells({"a": [0.3, 0.5, 0.7]})
    gain = statistics.gain_at(arm="a", figure="x", over="y", against="n", at=10)
    assert gain(given) == pytest.approx(0.4)
    least = statistics.least_gain_at(arm="a", figure="x", over="y", against="n", at=10)
    assert least([*given, Cell("a", 2, {"n": 10}, {"x": 0.1, "y": 0.3})]) == pytest.approx(-0.2)
    assert statistics.change(arm="a", figure="x", against="n", since=1, until=100)(given) == pytest.approx(0.4)
