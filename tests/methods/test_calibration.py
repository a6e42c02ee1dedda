"""Calibration and accuracy by group of held-out pairs: by hand, and of scorers that are known to be right or wrong."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from prefopt.datasets.data import Data
from prefopt.evaluation.calibration import binned, calibration
from prefopt.evaluation.groups import by_group


def margins(scale: float, pairs: int = 40_000) -> np.ndarray:
    """[N] of the true winner over the loser under `scale` times the log-odds that labels are drawn from."""
    draw = np.random.default_rng(0)
    odds = draw.normal(0.0, 2.0, pairs)
    first_won = draw.random(pairs) < 1 / (1 + np.exp(-odds))
    return scale * np.where(first_won, odds, -odds)


def test_a_scorer_that_states_the_odds_is_calibrated_and_one_that_triples_them_is_too_sure() -> None:
    honest, sure = calibration(margins(1.0)), calibration(margins(3.0))
    assert honest["calibration/ece"] < 0.01, "a mean over 40000 pairs is off by a few thousandths"
    assert sure["calibration/ece"] > 0.1
    bins = binned(margins(3.0))
    assert (bins.right[1:] < bins.confidence[1:]).all()
    for rule in ("calibration/brier", "calibration/nll"):
        assert honest[rule] < sure[rule], "both are proper"


def test_an_overconfident_scorer_by_hand() -> None:
    """Three of four right at P = 0.9: 0.15 off."""
    u = math.log(9)
    found = calibration(np.array([u, u, u, -u]))
    assert found["calibration/ece"] == pytest.approx(0.15)
    assert found["calibration/brier"] == pytest.approx((3 * 0.01 + 0.81) / 4)
    assert found["calibration/nll"] == pytest.approx(-(3 * math.log(0.9) + math.log(0.1)) / 4)


def test_bins_are_weighed_by_their_pairs() -> None:
    sure, unsure = math.log(9), math.log(0.6 / 0.4)
    found = calibration(np.array([sure, sure, sure, -unsure]))
    assert found["calibration/ece"] == pytest.approx((3 * 0.1 + 0.6) / 4)


def test_a_constant_reward_says_that_it_knows_nothing() -> None:
    assert calibration(np.zeros(7)) == pytest.approx(
        {"calibration/ece": 0.0, "calibration/brier": 0.25, "calibration/nll": math.log(2)}
    )


def test_margins_beyond_any_float_are_certain_and_those_that_are_no_numbers_are_not_hidden() -> None:
    assert calibration(np.array([1e4, 1e4])) == {f"calibration/{name}": 0.0 for name in ("ece", "brier", "nll")}
    assert calibration(np.array([-1e4]))["calibration/nll"] == 1e4
    assert all(math.isnan(value) for value in calibration(np.array([1.0, math.nan])).values())


def grouped(data: Data, **known: Any) -> Any:
    columns = {name: np.array(values) for name, values in known.items()}
    return replace(data.test.pairs, known=columns)


def test_accuracy_is_told_by_the_names_of_groups_and_for_the_worst(bandit: Data) -> None:
    codes, called = [0, 0, 0, 1, 1, -1], ["town", "town", "town", "land", "land", ""]
    right = np.array([True, True, False, False, False, False])
    found = by_group(grouped(bandit, group=codes, group_name=called), np.arange(6), right)
    assert found == pytest.approx(
        {
            "group/accuracy/town": 2 / 3,
            "group/accuracy/land": 0.0,
            "group/worst_accuracy": 0.0,
            "group/disagreement": 2 / 3,
        }
    )
    some = by_group(grouped(bandit, group=codes, group_name=called), np.array([1, 2, 5]), right[[1, 2, 5]])
    assert some == {"group/accuracy/town": 0.5, "group/worst_accuracy": 0.5, "group/disagreement": 0.0}


def test_of_many_groups_the_first_are_shown_and_the_worst_is_of_all(bandit: Data) -> None:
    found = by_group(grouped(bandit, group=np.arange(40)), np.arange(40), np.arange(40) != 39)
    assert sum(name.startswith("group/accuracy/") for name in found) == 16
    assert (found["group/worst_accuracy"], found["group/disagreement"]) == (0.0, 1.0)


def test_pairs_without_groups_have_no_figures_of_groups(bandit: Data) -> None:
    for known in ({}, {"group": [-1, -1]}, {"group": [0, -1]}):
        assert by_group(grouped(bandit, **known), np.array([1]), np.array([True])) == {}
