"""Choosing several of many by rankings (multiwinner voting; Boehmer et al., ICML 2023, arXiv 2306.09835).

    F(S) = sum_v sum_j w_j s_vj,   s_v1 >= s_v2 >= ... the points that ranking v gives the members of S by their places

Where every w_j is 1 the rule is separable: F(S) is a sum over the members of S, and of the rankings nothing but each
item's points matters. Where w falls F is monotone and submodular.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor

import numpy as np

from prefopt.errors import PrefoptError


@dataclass(frozen=True)
class Rule:
    """points: of m places from the best, as [m]. weights: w, not rising, of which those that are not given are 0;
    None: all 1."""

    points: Callable[[int], np.ndarray]
    weights: tuple[float, ...] | None = None

    def satisfaction(self, rankings: np.ndarray) -> np.ndarray:
        """[n, m] points that each ranking gives each item, from rankings [n, m] of items, the best first; of a
        separable rule their sum over rankings, [1, m].

        Raises PrefoptError where a ranking names an item twice or lacks one.
        """
        points = self.points(rankings.shape[1])[places(rankings)].astype(float)
        return points if self.weights else points.sum(0, keepdims=True)

    def most(self, m: int) -> float:
        """What a ranking of m items gives a single one at most."""
        return float(self.points(m)[0]) * (self.weights[0] if self.weights else 1.0)

    def total(self, satisfaction: np.ndarray, subset: Sequence[int]) -> float:
        """F(S)."""
        points = satisfaction[:, list(subset)]
        if self.weights is None:
            return float(points.sum())
        weights = np.zeros(len(subset))
        weights[: len(self.weights)] = self.weights[: len(subset)]
        return float((-np.sort(-points, 1) @ weights).sum())


def borda() -> Rule:
    """As many points as there are items below."""
    return Rule(lambda m: np.arange(m)[::-1])


def bloc(size: int) -> Rule:
    """A point for each of the first `size` places."""
    if size < 1:
        raise PrefoptError(f"method.rule.size={size} gives nobody a point", "give at least 1")
    return Rule(lambda m: (np.arange(m) < size).astype(int))


def sntv() -> Rule:
    """The single non-transferable vote: a point for the first place."""
    return bloc(1)


def chamberlin_courant() -> Rule:
    """Every ranking is represented by the one member that it likes best."""
    return ordered([1.0])


def ordered(weights: Sequence[float]) -> Rule:
    """An ordered weighted average of Borda points: the member that a ranking likes j-th best counts w_j."""
    falls = all(a >= b for a, b in pairwise([*weights, 0.0]))
    if not (len(weights) and weights[0] > 0 and falls):
        raise PrefoptError(f"method.rule.weights={list(weights)} are no falling weights >= 0", "as [1, 0.5, 0.25]")
    return Rule(borda().points, tuple(weights))


def places(rankings: np.ndarray) -> np.ndarray:
    """[n, m] the place of each item, 0 the best, from rankings [n, m] of items.

    Raises PrefoptError where a ranking names an item twice or lacks one.
    """
    m = rankings.shape[1]
    wrong = np.flatnonzero((np.sort(rankings, 1) != np.arange(m)).any(1))
    if len(wrong):
        row = rankings[wrong[0]].tolist()
        lacking = sorted(set(range(m)) - set(row))
        twice = [f"names {i} more than once" for i in sorted(set(row)) if row.count(i) > 1]
        foreign = [f"names {i}, which is no item" for i in row if not 0 <= i < m]
        raise PrefoptError(
            f"ranking {wrong[0]} of {len(rankings)} " + ", ".join([*twice, *foreign, *(f"lacks {i}" for i in lacking)]),
            f"name each of the {m} items, 0 to {m - 1}, once",
        )
    return np.argsort(rankings, 1)


def chosen(
    rule: Rule,
    satisfaction: np.ndarray,
    *,
    size: int,
    apart: np.ndarray,
    least: int = 0,
    draws: np.random.Generator,
) -> list[int]:
    """The `size` items with the highest F of which at least `least` are in the group `apart` [m].

    Greedy, as the constraint is a matroid (at most size - least items of the other group): exact for a separable rule,
    at least half of the best for a submodular one. Gains are looked at lazily, for they only fall. Ties are drawn.
    Raises PrefoptError where no subset is like that.
    """
    m, group = len(apart), int(apart.sum())
    if not 0 <= size <= m or not 0 <= least <= min(size, group):
        raise PrefoptError(
            f"no {size} of {m} items have at least {least} of the {group} in the group",
            f"ask for at most {m} items, and for at most {min(size, group)} of the group",
        )
    subset: list[int] = []
    total, others = 0.0, size - least
    luck = draws.random(m)
    queue = [(-rule.total(satisfaction, [i]), luck[i], i, 0) for i in range(m)]
    heapq.heapify(queue)
    while len(subset) < size:
        gain, _, item, seen = heapq.heappop(queue)
        if not apart[item] and others == 0:
            continue
        if seen < len(subset):
            gain = total - rule.total(satisfaction, [*subset, item])
            heapq.heappush(queue, (gain, luck[item], item, len(subset)))
            continue
        subset.append(item)
        total -= gain
        others -= not apart[item]
    return subset


def bound(share: float, size: int) -> int:
    """How many of a subset are at least `share` of it, as far as whole items go."""
    return floor(share * size + 1e-9)


def alpha(s: np.ndarray, biased: np.ndarray, most: float) -> float:
    """The weakest signal that any item gives, of expected points [m] a ranking without and with the bias; `most` is
    what a single item can have. About 1 / alpha rankings are needed to see it."""
    return float(min(s.min(), biased.min()) / most)


def gamma(s: np.ndarray, biased: np.ndarray, apart: np.ndarray, beta: float) -> float:
    """The largest ratio of biased points of two items of one group of which the one has at most beta times the points
    of the other: below 1, the bias leaves in order what is clearly different. 0 where no two are so."""
    clear = (apart[:, None] == apart) & (s <= beta * s[:, None]) & ~np.eye(len(s), dtype=bool)
    ratio = np.divide(biased, biased[:, None], out=np.full(clear.shape, np.inf), where=biased[:, None] > 0)
    return float(ratio[clear].max(initial=0.0))
