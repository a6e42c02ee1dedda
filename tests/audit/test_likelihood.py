"""The likelihood of noisy labels: values by hand, closed forms, and what must not change it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit, ndtr
from scipy.stats import chi2

from prefopt.audit.likelihood import DEPTH, Link, interval, logistic, maximum, normal, profiled, surface


def simulated(rate: float, pairs: int, seed: int, link: Link = logistic, spread: float = 3.0) -> np.ndarray:
    """Margins of recorded labels: true margins N(0, spread^2), a choice by the link, a flip at the rate."""
    draws = np.random.default_rng(seed)
    margin = spread * draws.standard_normal(pairs)
    as_predicted = (draws.random(pairs) < link(np.abs(margin))) ^ (draws.random(pairs) < rate)
    return np.where(as_predicted, np.abs(margin), -np.abs(margin))


@pytest.mark.parametrize(("link", "p"), [(logistic, expit([1.0, -4.0])), (normal, ndtr([1.0, -4.0]))])
def test_the_surface_is_the_log_likelihood_of_each_part(link: Link, p: np.ndarray) -> None:
    heights = surface(np.array([0.5, -2.0]), link, np.array([2.0]), np.array([0.0, 0.1]), np.array([1, 0]))
    assert heights.shape == (2, 1, 2)
    assert heights[:, 0, 0] == pytest.approx(np.log([p[1], p[0]]))
    assert heights[:, 0, 1] == pytest.approx(np.log([0.1 + 0.8 * p[1], 0.1 + 0.8 * p[0]]))


def test_a_label_that_cannot_be_has_a_finite_likelihood() -> None:
    assert np.isfinite(surface(np.array([-1e4]), logistic, np.array([1e4]), np.array([0.0]))).all()


@pytest.mark.parametrize(("wrong", "pairs"), [(0, 200), (30, 200), (400, 2000)])
def test_where_all_margins_are_equal_the_upper_end_is_that_of_a_binomial(wrong: int, pairs: int) -> None:
    """And the lower end is 0, because one margin tells no scale: all that contradicts it may be close calls."""
    margins = np.where(np.arange(pairs) < wrong, -1.0, 1.0)
    share = wrong / pairs

    def fall(e: float) -> float:
        own = wrong * np.log(share / e) if wrong else 0.0
        return 2 * (own + (pairs - wrong) * np.log((1 - share) / (1 - e))) - float(chi2.ppf(0.9, 1))

    found = profiled(margins, logistic)
    assert found.low == 0
    assert found.high == pytest.approx(brentq(fall, share + 1e-9, 0.5), abs=2e-3)


def test_close_calls_are_no_flips() -> None:
    margins = simulated(0.0, 4000, seed=0)
    assert np.mean(margins < 0) > 0.15
    assert profiled(margins, logistic).high < 0.03


def test_margins_near_zero_give_the_whole_range() -> None:
    found = profiled(simulated(0.2, 2000, seed=1, spread=0.05), logistic)
    assert found.low == 0 and found.high > 0.45


def test_labels_of_a_tossed_coin_fit_any_rate() -> None:
    draws = np.random.default_rng(0)
    found = profiled(draws.standard_normal(3000), logistic)
    assert found.low == 0 and found.high == 0.5


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_neither_the_unit_of_the_margins_nor_their_order_matters(seed: int, unit: float) -> None:
    margins = simulated(0.2, 400, seed)
    found = profiled(margins, logistic)
    other = profiled(np.random.default_rng(seed).permutation(margins) * unit, logistic)
    assert other[:3] == pytest.approx(found[:3], abs=1e-6)
    assert other.scale * unit == pytest.approx(found.scale, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.2, 0.4]))
def test_the_rate_lies_within_its_interval_and_within_a_half(seed: int, rate: float) -> None:
    found = profiled(simulated(rate, 200, seed), logistic)
    assert 0 <= found.low <= found.rate <= found.high <= 0.5
    assert found.scale > 0


def test_the_zoom_finds_the_maximum_that_an_optimiser_finds() -> None:
    from scipy.optimize import minimize

    margins = simulated(0.2, 60_000, seed=2)

    def cost(x: np.ndarray) -> float:
        return -float(np.log(x[1] + (1 - 2 * x[1]) * expit(np.exp(x[0]) * margins)).sum())

    best = minimize(cost, [0.0, 0.1], bounds=[(-3, 3), (0, 0.49)])
    found = profiled(margins, logistic)
    assert found.rate == pytest.approx(best.x[1], abs=5e-4)
    gap = cost(np.array([np.log(found.scale), found.rate])) - best.fun
    assert 0 <= gap < 0.1 < DEPTH


def test_what_margins_say_is_measured_in_nats_above_a_coin() -> None:
    assert maximum(np.ones(50), logistic) == pytest.approx(50 * np.log(2), rel=1e-6)
    assert maximum(-np.ones(50), logistic) == pytest.approx(0, abs=1e-9)


def test_an_interval_is_cut_where_the_profile_has_fallen_enough() -> None:
    rates = np.linspace(0, 0.5, 51)
    rate, low, high = interval(rates, -(((rates - 0.2) / 0.05) ** 2) / 2)
    assert (rate, low, high) == pytest.approx((0.2, 0.2 - 0.05 * 1.645, 0.2 + 0.05 * 1.645), abs=1e-3)
