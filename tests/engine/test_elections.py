"""Choosing several by rankings: scores by hand, the bound, brute force, and rankings that are none."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefopt.engine.elections import (
    Rule,
    alpha,
    bloc,
    borda,
    chamberlin_courant,
    chosen,
    gamma,
    ordered,
    places,
    sntv,
)
from prefopt.errors import PrefoptError

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")
RANKINGS = np.array([[0, 1, 2, 3], [1, 0, 3, 2], [0, 2, 1, 3]])
APART = np.array([False, False, True, True])


def pick(rule: Rule, rankings: np.ndarray, size: int, apart: np.ndarray, least: int, seed: int = 0) -> list[int]:
    draws = np.random.default_rng(seed)
    return chosen(rule, rule.satisfaction(rankings), size=size, apart=apart, least=least, draws=draws)


def drawn(seed: int, rankers: int, items: int) -> np.ndarray:
    return np.argsort(np.random.default_rng(seed).random((rankers, items)), 1)


@pytest.mark.parametrize(("rule", "scores"), [(borda(), [8, 6, 3, 1]), (sntv(), [2, 1, 0, 0]), (bloc(2), [3, 2, 1, 0])])
def test_the_scores_of_items_are_those_by_hand(rule: Rule, scores: list[int]) -> None:
    points = rule.satisfaction(RANKINGS)
    assert points.tolist() == [scores]
    assert [rule.total(points, [i]) for i in range(4)] == scores
    assert rule.total(points, [0, 3]) == scores[0] + scores[3]


def test_everybody_is_represented_by_the_one_that_they_like_best() -> None:
    rule = chamberlin_courant()
    points = rule.satisfaction(RANKINGS)
    found = {pair: rule.total(points, pair) for pair in combinations(range(4), 2)}
    assert found == {(0, 1): 9, (0, 2): 8, (0, 3): 8, (1, 2): 7, (1, 3): 6, (2, 3): 4}


def test_an_ordered_average_lies_between_borda_and_chamberlin_courant() -> None:
    half, all_, one = ordered([1, 0.5]), ordered([1, 1]), ordered([1])
    assert half.total(half.satisfaction(RANKINGS), [1, 2]) == 7 + 0.5 * 2
    assert all_.total(all_.satisfaction(RANKINGS), [1, 2]) == 9 == borda().total(borda().satisfaction(RANKINGS), [1, 2])
    assert one.total(one.satisfaction(RANKINGS), [1, 2]) == 7


@pytest.mark.parametrize(("least", "subset"), [(0, [0, 1]), (1, [0, 2]), (2, [2, 3])])
def test_the_bound_moves_the_choice_to_the_group(least: int, subset: list[int]) -> None:
    assert sorted(pick(borda(), RANKINGS, 2, APART, least)) == subset


def test_the_bound_is_a_lower_one() -> None:
    assert sorted(pick(borda(), RANKINGS, 2, ~APART, 1)) == [0, 1]


@given(seed=st.integers(0, 500), rankers=st.integers(1, 6), items=st.integers(2, 8), b=st.integers(1, 8))
def test_scores_add_up_to_what_all_rankings_give(seed: int, rankers: int, items: int, b: int) -> None:
    rankings = drawn(seed, rankers, items)
    assert borda().satisfaction(rankings).sum() == rankers * items * (items - 1) / 2
    assert sntv().satisfaction(rankings).sum() == rankers
    assert bloc(b).satisfaction(rankings).sum() == rankers * min(b, items)


@given(
    seed=st.integers(0, 500),
    rankers=st.integers(1, 6),
    items=st.integers(2, 8),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
)
def test_the_choice_is_the_best_for_separable_rules_and_half_of_it_for_submodular_ones(
    seed: int, rankers: int, items: int, shares: tuple[float, float, float]
) -> None:
    rankings, apart = drawn(seed, rankers, items), np.arange(items) < shares[0] * items
    size = 1 + int(shares[1] * (items - 1))
    least = int(shares[2] * min(size, apart.sum()))
    for rule, share in ((borda(), 1), (bloc(2), 1), (sntv(), 1), (chamberlin_courant(), 0.5), (ordered([1, 0.3]), 0.5)):
        points = rule.satisfaction(rankings)
        subset = pick(rule, rankings, size, apart, least, seed)
        assert len(set(subset)) == size and apart[subset].sum() >= least
        allowed = (s for s in combinations(range(items), size) if apart[list(s)].sum() >= least)
        best = max(rule.total(points, s) for s in allowed)
        assert rule.total(points, subset) >= share * best - 1e-9


@given(seed=st.integers(0, 500), weights=st.sampled_from([(1.0,), (1.0, 0.5), (1.0, 1.0, 0.2)]))
def test_falling_weights_make_a_rule_monotone_and_submodular(seed: int, weights: tuple[float, ...]) -> None:
    rule, draws = ordered(weights), np.random.default_rng(seed)
    points = rule.satisfaction(drawn(seed, 4, 7))
    order = draws.permutation(7).tolist()
    small, large, item = order[:2], order[:4], order[6]
    gains = [rule.total(points, [*s, item]) - rule.total(points, s) for s in (small, large)]
    assert gains[0] >= gains[1] - 1e-9
    assert gains[1] >= -1e-9


def test_ties_are_drawn_and_not_broken_by_place() -> None:
    rankings = np.array([[0, *range(1, 12)]])
    apart = np.arange(12) >= 6
    subsets = [pick(sntv(), rankings, 3, apart, 2, seed) for seed in range(200)]
    assert subsets[0] == pick(sntv(), rankings, 3, apart, 2, 0)
    counts = np.bincount(np.concatenate(subsets), minlength=12)
    assert counts[0] == 200, "the one that was first somewhere"
    assert (counts[6:] > 40).all() and counts[6:].sum() == 400


@pytest.mark.parametrize(("size", "least"), [(5, 0), (3, 4), (3, 3)])
def test_a_bound_that_no_subset_meets_is_named(size: int, least: int) -> None:
    with pytest.raises(PrefoptError, match=f"no {size} of 4 items have at least {least} of the 2"):
        pick(borda(), RANKINGS, size, APART, least)


@pytest.mark.parametrize(
    ("ranking", "said"),
    [
        ([0, 1, 1, 3], "ranking 2 of 3 names 1 more than once, lacks 2"),
        ([0, 1, 2, 4], "ranking 2 of 3 names 4, which is no item, lacks 3"),
    ],
)
def test_a_ranking_that_names_an_item_twice_or_lacks_one_is_named(ranking: list[int], said: str) -> None:
    with pytest.raises(PrefoptError, match=said) as told:
        borda().satisfaction(np.array([*RANKINGS[:2].tolist(), ranking]))
    assert "each of the 4 items" in told.value.mend


def test_places_undo_a_ranking() -> None:
    assert places(np.array([[2, 0, 1]])).tolist() == [[1, 2, 0]]


@pytest.mark.parametrize("weights", [[], [0.0], [0.5, 1.0], [1.0, -0.1]])
def test_weights_that_rise_or_are_negative_are_refused(weights: list[float]) -> None:
    with pytest.raises(PrefoptError, match=r"rule\.weights"):
        ordered(weights)


def test_a_rule_without_a_first_place_is_refused() -> None:
    with pytest.raises(PrefoptError, match=r"rule\.size=0"):
        bloc(0)


def test_smoothness_by_hand() -> None:
    s, biased = np.array([4.0, 2.0, 3.0, 1.0]), np.array([4.0, 3.0, 0.5, 1.0])
    assert alpha(s, biased, 4) == 0.125
    assert gamma(s, biased, APART, 0.5) == 2, "item 3 has a third of what item 2 has, and twice as much with the bias"
    assert gamma(s, biased, np.array([False, False, False, True]), 0.5) == 0.75
    assert gamma(s, biased, APART, 0.1) == 0
