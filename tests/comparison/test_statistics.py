"""The statistics of a comparison against hand-worked cases, closed forms and what must hold of any numbers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from prefopt.comparison.statistics import Friedman, area, breakdown, estimate, friedman, holm, paired, ranks

NUMBERS = st.floats(-100, 100).map(lambda x: round(x, 3))
P = st.floats(0, 1) | st.just(math.nan)


def test_holm_in_a_case_worked_by_hand() -> None:
    # sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1 which may not fall below the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_what_is_no_test_is_no_member_of_the_family() -> None:
    corrected = holm([0.02, math.nan, 0.5])
    assert corrected[0] == pytest.approx(0.04) and math.isnan(corrected[1]) and corrected[2] == pytest.approx(0.5)
    assert holm([]) == []


@given(ps=st.lists(P, max_size=12))
def test_holm_never_lowers_a_p_and_keeps_their_order(ps: list[float]) -> None:
    tests = [(p, c) for p, c in zip(ps, holm(ps), strict=True) if not math.isnan(p)]
    assert all(p <= corrected <= 1 for p, corrected in tests)
    assert all(c <= d for p, c in tests for q, d in tests if p <= q)


def test_runs_that_diverged_have_an_estimate_too() -> None:
    huge, same = estimate([-1e200, -3e200]), estimate([-1.0, -3.0])
    assert (huge.mean, huge.half) == pytest.approx((1e200 * same.mean, 1e200 * same.half))


def test_an_estimate_is_the_t_interval() -> None:
    values = [1.0, 2.0, 4.0]
    found = estimate(values)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert found == pytest.approx((7 / 3, low, high, 3))
    assert found.half == pytest.approx(4.302653 * np.std(values, ddof=1) / math.sqrt(3))


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    one = estimate([3.0])
    assert one.mean == 3 and one.n == 1 and math.isnan(one.half)
    assert math.isnan(estimate([]).mean) and estimate([]).n == 0


def test_a_paired_test_is_that_of_the_seeds_that_both_have() -> None:
    ours, theirs = {0: 1.0, 1: 2.5, 2: 3.0, 9: 100.0}, {0: 0.5, 1: 1.0, 2: 2.9, 7: -100.0}
    found = paired(ours, theirs)
    assert found.difference.n == 3
    assert found.p == pytest.approx(stats.ttest_rel([1.0, 2.5, 3.0], [0.5, 1.0, 2.9]).pvalue)


@given(
    values=st.dictionaries(st.integers(0, 9), st.tuples(NUMBERS, NUMBERS), min_size=2),
    shift=st.sampled_from([-3.0, 0.5, 10.0]),
)
def test_a_shift_of_both_sides_changes_no_difference(values: dict, shift: float) -> None:
    ours, theirs = ({seed: pair[k] for seed, pair in values.items()} for k in (0, 1))
    moved = paired(*({seed: value + shift for seed, value in side.items()} for side in (ours, theirs)))
    found = paired(ours, theirs)
    assert moved.difference == pytest.approx(found.difference, abs=1e-9)
    assert moved.p == pytest.approx(found.p, rel=1e-6, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("theirs", [{0: 1.0, 1: 2.0}, {0: 0.9, 1: 1.9}, {1: 5.0}, {}])
def test_there_is_no_test_without_variation_or_a_second_seed(theirs: dict[int, float]) -> None:
    assert math.isnan(paired({0: 1.0, 1: 2.0}, theirs).p)


@given(intercept=NUMBERS, slope=NUMBERS, rates=st.sets(st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.4]), min_size=2))
def test_the_area_under_a_line_is_its_value_in_the_middle(intercept: float, slope: float, rates: set[float]) -> None:
    middle = (min(rates) + max(rates)) / 2
    assert area({rate: intercept + slope * rate for rate in rates}) == pytest.approx(
        intercept + slope * middle, abs=1e-9
    )


def test_the_area_weighs_by_distance_and_one_point_has_none() -> None:
    assert area({0.0: 1.0, 0.1: 1.0, 0.4: 0.0}) == pytest.approx((0.1 * 1 + 0.3 * 0.5) / 0.4)
    assert math.isnan(area({0.2: 1.0}))


def spread(middle: float) -> dict[int, float]:
    """Two seeds whose interval's lower bound is `middle` less t(0.975, 1) times their standard error of 0.01."""
    return {0: middle - 0.01, 1: middle + 0.01}


HALF = 12.706204736 * 0.01


def test_the_breakdown_rate_is_where_the_bound_crosses_zero() -> None:
    found = breakdown({0.0: spread(0.3 + HALF), 0.2: spread(0.1 + HALF), 0.4: spread(-0.1 + HALF)})
    assert found == pytest.approx(0.3)


def test_a_method_that_is_never_better_breaks_down_at_the_lowest_rate_and_one_that_always_is_nowhere() -> None:
    assert breakdown({0.1: spread(0.0), 0.2: spread(5.0)}) == 0.1
    assert breakdown({0.1: spread(4.0), 0.2: spread(5.0)}) is None
    assert breakdown({}) is None


def test_the_breakdown_rate_is_not_known_without_intervals() -> None:
    found = breakdown({0.1: {0: 1.0}, 0.2: {0: -1.0}})
    assert found is not None and math.isnan(found)


@given(block=st.dictionaries(st.sampled_from("abcdef"), NUMBERS, min_size=1), shift=NUMBERS)
def test_ranks_share_out_the_places_and_turn_round_with_the_direction(block: dict[str, float], shift: float) -> None:
    n = len(block)
    up, down = (ranks(block, higher_is_better=higher) for higher in (True, False))
    assert sum(up.values()) == pytest.approx(n * (n + 1) / 2)
    assert all(up[name] + down[name] == n + 1 for name in block)
    assert all(up[a] < up[b] for a in block for b in block if block[a] > block[b])


def test_values_alike_to_rounding_are_ties() -> None:
    assert ranks({"a": 0.1 + 0.2, "b": 0.3, "c": 1.0}, higher_is_better=True) == {"a": 2.5, "b": 2.5, "c": 1.0}


@settings(max_examples=30)
@given(st.lists(st.permutations([1.0, 2.0, 3.0]), min_size=2, max_size=6))
def test_friedman_is_its_formula(rows: list[list[float]]) -> None:
    n, k = len(rows), 3
    sums = np.array(rows).sum(0)
    found = friedman([dict(zip("abc", row, strict=True)) for row in rows])
    assert isinstance(found, Friedman)
    assert found.statistic == pytest.approx(12 / (n * k * (k + 1)) * (sums**2).sum() - 3 * n * (k + 1), abs=1e-9)


def test_friedman_is_not_defined_for_two_arms_one_block_or_ties_alone() -> None:
    assert friedman([{"a": 1, "b": 2}] * 5) is None
    assert friedman([{"a": 1, "b": 2, "c": 3}]) is None
    assert friedman([{"a": 2, "b": 2, "c": 2}] * 3) is None
