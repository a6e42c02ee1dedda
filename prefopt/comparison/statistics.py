"""The statistics of a comparison, as pure functions of numbers paired by seed."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95
ALIKE = 1e-12
"""Differences that vary by no more than this share of what they are differences of do not vary: rounding does that."""


class Estimate(NamedTuple):
    """A mean over n seeds and its two-sided 95 % t-interval; the bounds are nan where n < 2, all is where n = 0."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        return self.high - self.mean


class Paired(NamedTuple):
    """A mean paired difference, and the p-value of the hypothesis that it is 0; nan where there is no test."""

    difference: Estimate
    p: float


class Friedman(NamedTuple):
    """Friedman's chi-squared over blocks, and its p-value."""

    statistic: float
    p: float


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and t-interval of independent values."""
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, math.nan, math.nan, 1)
    spread = math.hypot(*(value - mean for value in values)) / math.sqrt(n - 1)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * spread / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Paired:
    """The paired t-test of ours - theirs over the seeds that both have.

    The t-test, and not the exact sign-flip permutation, because seeds are few: of n seeds no permutation gives a p
    below 2^(1-n), so that nothing could hold at 5 % with fewer than six, and with correction for several tests not
    with ten. The price is that differences are taken to be about normal. Test and interval are the same statement.
    There is no test (p is nan) with fewer than two seeds, or where the differences do not vary.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    differences = [ours[seed] - theirs[seed] for seed in seeds]
    difference = estimate(differences)
    scale = max((abs(value) for seed in seeds for value in (ours[seed], theirs[seed])), default=0.0)
    if difference.n < 2 or max(differences) - min(differences) <= ALIKE * scale:
        return Paired(difference, math.nan)
    t = difference.mean / (np.std(differences, ddof=1) / math.sqrt(difference.n))
    return Paired(difference, float(2 * stats.t.sf(abs(t), difference.n - 1)))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction over one family of tests; nan stands for no test, and is no member."""
    order = sorted((p, place) for place, p in enumerate(ps) if not math.isnan(p))
    corrected, highest = [math.nan] * len(ps), 0.0
    for rank, (p, place) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        corrected[place] = highest
    return corrected


def area(curve: Mapping[float, float]) -> float:
    """Area under the straight lines through a curve's points, over the range of its abscissae: a mean over rates.

    A curve of fewer than two points has none (nan).
    """
    if len(curve) < 2:
        return math.nan
    x = np.array(sorted(curve))
    return float(np.trapezoid([curve[rate] for rate in x], x) / (x[-1] - x[0]))


def breakdown(advantage: Mapping[float, Mapping[int, float]]) -> float | None:
    """The smallest noise rate at which a method is no longer better than its level, None where there is none.

    advantage: by rate and seed, how much better the method is than the level (its start, or chance).
    It is better where the lower bound of the advantage's 95 % t-interval over seeds is above 0; between the last rate
    where it is and the first where it is not, the bound is taken to be a straight line, and the answer is where that
    line crosses 0. The lowest rate itself where the method is not better even there; nan where a rate has fewer than
    two seeds, and so no interval, before any crossing.
    """
    before: tuple[float, float] | None = None
    for rate in sorted(advantage):
        low = estimate([advantage[rate][seed] for seed in sorted(advantage[rate])]).low
        if math.isnan(low):
            return math.nan
        if low <= 0:
            return rate if before is None else before[0] + (rate - before[0]) * before[1] / (before[1] - low)
        before = rate, low
    return None


def ranks(block: Mapping[str, float], *, higher_is_better: bool) -> dict[str, float]:
    """Ranks within one block, 1 the best, ties sharing their mean rank; values alike to rounding are ties."""
    names = sorted(block)
    values = [float(f"{block[name]:.12g}") * (-1 if higher_is_better else 1) for name in names]
    return {name: float(rank) for name, rank in zip(names, stats.rankdata(values), strict=True)}


def friedman(blocks: Sequence[Mapping[str, float]]) -> Friedman | None:
    """Friedman's test over blocks of ranks; None with fewer than three arms or two blocks, or where all are ties."""
    if len(blocks) < 2 or len(blocks[0]) < 3 or all(len(set(block.values())) == 1 for block in blocks):
        return None
    statistic, p = stats.friedmanchisquare(*([block[name] for block in blocks] for name in sorted(blocks[0])))
    return Friedman(float(statistic), float(p))
