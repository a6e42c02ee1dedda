"""The kinds of statistic that a claim is made of: numbers from a table of cells, paired by seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

RESAMPLES = 1000
EXTREMES = frozenset(
    {
        "smallest_gap",
        "smallest_ratio",
        "median_gap",
        "gap_at_best",
        "recovery_ratio",
        "extreme",
        "largest_ratio",
        "at_equal_cost",
        "largest_gap",
        "largest_distance",
        "least_gain_at",
    }
)
"""Statistics that are extremes over seeds: seeds drawn again say nothing of how much further it could go."""


@dataclass(frozen=True)
class Cell:
    """One finished run of a claim: its arm, seed, place on the grid, and figures."""

    arm: str
    seed: int
    at: dict[str, Any]
    figures: dict[str, float]


Statistic = Callable[[Sequence[Cell]], float]


def slope(*, arm: str, figure: str, against: str, transform: Literal["log", "correction"] = "log") -> Statistic:
    """Slope of log mean `figure` over the log of a grid key, over the seeds' means; or, with the transform
    `correction`, over log 1/(1-2e) of a flip rate e."""

    def of(cells: Sequence[Cell]) -> float:
        xs = sorted({cell.at[against] for cell in cells if cell.arm == arm and against in cell.at})
        means = [np.mean([c.figures[figure] for c in cells if c.arm == arm and c.at.get(against) == x]) for x in xs]
        x = np.array(xs, dtype=float)
        scale = np.log(x) if transform == "log" else -np.log(1 - 2 * x)
        return float(np.polyfit(scale, np.log(means), 1)[0])

    return of


def slope_gap(
    *, arm: str, figure: str, other: str, against: str, transform: Literal["log", "correction"] = "log"
) -> Statistic:
    """The slope of `figure` less that of `other`: 0 where the one follows the other."""
    ours, theirs = (slope(arm=arm, figure=f, against=against, transform=transform) for f in (figure, other))
    return lambda cells: ours(cells) - theirs(cells)


def spread(*, arm: str, figure: str, against: str) -> Statistic:
    """Largest relative distance of mean `figure` * (1 - 2e) from its mean over a grid of flip rates e."""

    def of(cells: Sequence[Cell]) -> float:
        rates = sorted({cell.at[against] for cell in cells if cell.arm == arm})
        scaled = [
            np.mean([c.figures[figure] for c in cells if c.arm == arm and c.at[against] == e]) * (1 - 2 * e)
            for e in rates
        ]
        return float(np.abs(np.array(scaled) / np.mean(scaled) - 1).max())

    return of


def squared_ratio(*, arm: str, figure: str, expected: str, pick: str) -> Statistic:
    """Over a grid, the `pick` (min or max) of mean `figure`^2 / mean `expected`^2."""

    def of(cells: Sequence[Cell]) -> float:
        places = {tuple(cell.at.items()) for cell in cells if cell.arm == arm}
        ratios = []
        for place in places:
            here = [c.figures for c in cells if c.arm == arm and tuple(c.at.items()) == place]
            ratios.append(np.mean([f[figure] ** 2 for f in here]) / np.mean([f[expected] ** 2 for f in here]))
        return float({"min": min, "max": max}[pick](ratios))

    return of


def smallest_gap(*, figure: str, better: str, worse: str) -> Statistic:
    """The least paired difference `better` - `worse` over seeds: above 0 where the order holds in every one."""

    def of(cells: Sequence[Cell]) -> float:
        value = {(cell.arm, cell.seed): cell.figures[figure] for cell in cells if cell.arm in (better, worse)}
        return min(value[better, seed] - value[worse, seed] for arm, seed in value if arm == better)

    return of


def median_gap(*, figure: str, better: Sequence[str], worse: Sequence[str]) -> Statistic:
    """The least over seeds of the median of a figure over the arms `better`, cells of a grid, less the same of the arms
    `worse`."""

    def of(cells: Sequence[Cell]) -> float:
        value = {(cell.arm, cell.seed): cell.figures[figure] for cell in cells if cell.arm in (*better, *worse)}

        def median(arms: Sequence[str], seed: int) -> float:
            return float(np.median([value[arm, seed] for arm in arms]))

        return min(median(better, seed) - median(worse, seed) for seed in _seeds(cells))

    return of


def gap_at_best(*, figure: str, by: str, better: Sequence[str], worse: Sequence[str]) -> Statistic:
    """The least over seeds of a figure at that of the arms `better` which is highest `by` another, less the same of the
    arms `worse`."""

    def of(cells: Sequence[Cell]) -> float:
        at = {(cell.arm, cell.seed): cell.figures for cell in cells}

        def best(arms: Sequence[str], seed: int) -> float:
            return max((at[arm, seed] for arm in arms), key=lambda figures: figures[by])[figure]

        return min(best(better, seed) - best(worse, seed) for seed in _seeds(cells))

    return of


def _seeds(cells: Sequence[Cell]) -> set[int]:
    return {cell.seed for cell in cells}


def mean_gap(*, figure: str, better: str, worse: str) -> Statistic:
    """The mean paired difference `better` - `worse` over seeds."""

    def of(cells: Sequence[Cell]) -> float:
        value = {(cell.arm, cell.seed): cell.figures[figure] for cell in cells if cell.arm in (better, worse)}
        return float(np.mean([value[better, seed] - value[worse, seed] for arm, seed in value if arm == better]))

    return of


def between(*, arm: str, figure: str, other: str) -> Statistic:
    """The mean over seeds of one figure of an arm less another of it."""
    return lambda cells: float(np.mean([c.figures[figure] - c.figures[other] for c in cells if c.arm == arm]))


def won(*, figure: str, better: str, worse: str) -> Statistic:
    """The share of the seeds in which `better` is above `worse`."""

    def of(cells: Sequence[Cell]) -> float:
        value = {(cell.arm, cell.seed): cell.figures[figure] for cell in cells if cell.arm in (better, worse)}
        return float(np.mean([value[better, seed] > value[worse, seed] for arm, seed in value if arm == better]))

    return of


def ratio(*, figure: str, arm: str, other: str) -> Statistic:
    """`arm` / `other` of the seeds' means."""
    ours, theirs = (mean(figure=figure, arm=name) for name in (arm, other))
    return lambda cells: ours(cells) / theirs(cells)


def fall_ratio(*, along: Sequence[str], arm: str, other: str) -> Statistic:
    """How far figures fall from the highest to the last of a curve, the seeds' mean of `arm` over that of `other`."""

    def fall(cells: Sequence[Cell], name: str) -> float:
        curves = np.array([[cell.figures[figure] for figure in along] for cell in cells if cell.arm == name])
        return float((curves.max(1) - curves[:, -1]).mean())

    def of(cells: Sequence[Cell]) -> float:
        theirs = fall(cells, other)
        return fall(cells, arm) / theirs if theirs else float("nan")

    return of


def excess(*, figure: str, better: str, worse: str, start: str, times: float) -> Statistic:
    """The mean over seeds of (better - start) - times (worse - start): above 0 where the one gains that many times as
    much, and where the other loses."""

    def of(cells: Sequence[Cell]) -> float:
        gain = {
            a: np.mean([c.figures[figure] - c.figures[start] for c in cells if c.arm == a]) for a in (better, worse)
        }
        return float(gain[better] - times * gain[worse])

    return of


def mean(*, figure: str, arm: str) -> Statistic:
    """The mean of a figure over seeds."""

    def of(cells: Sequence[Cell]) -> float:
        return float(np.mean([cell.figures[figure] for cell in cells if cell.arm == arm]))

    return of


def recovery(*, figure: str, arm: str, clean: str, start: str) -> Statistic:
    """(arm - start) / (clean - start) of the seeds' means: how much of the clean gain is there under noise."""

    def of(cells: Sequence[Cell]) -> float:
        gain = {a: np.mean([c.figures[figure] - c.figures[start] for c in cells if c.arm == a]) for a in (arm, clean)}
        return float(gain[arm] / gain[clean])

    return of


def recovery_ratio(*, figure: str, better: str, worse: str, start: str) -> Statistic:
    """The least over seeds of (better - start) / (worse - start): how many times as much is recovered; nan where
    `worse` gains nothing."""

    def of(cells: Sequence[Cell]) -> float:
        gain = {(c.arm, c.seed): c.figures[figure] - c.figures[start] for c in cells}
        ratios = [
            gain[better, seed] / gain[worse, seed] if gain[worse, seed] > 0 else np.nan
            for arm, seed in gain
            if arm == better
        ]
        return float(np.min(ratios))

    return of


def extreme(*, figure: str, arm: str, pick: str) -> Statistic:
    """The `pick` (min or max) of a figure over seeds."""
    chosen = {"min": min, "max": max}[pick]
    return lambda cells: float(chosen(cell.figures[figure] for cell in cells if cell.arm == arm))


def largest_ratio(*, figure: str, arm: str, other: str) -> Statistic:
    """The largest paired `arm` / `other` over seeds: below 1 where it is the smaller one in every seed."""

    def of(cells: Sequence[Cell]) -> float:
        value = {(cell.arm, cell.seed): cell.figures[figure] for cell in cells if cell.arm in (arm, other)}
        return float(max(value[arm, seed] / value[other, seed] for name, seed in value if name == arm))

    return of


def smallest_ratio(*, arm: str, figure: str, over: str) -> Statistic:
    """The least over seeds of a figure over another of the same run."""
    return lambda cells: float(min(c.figures[figure] / c.figures[over] for c in cells if c.arm == arm))


def at_equal_cost(*, figure: str, cost: str, arm: str, along: Sequence[str]) -> Statistic:
    """The least over seeds of `arm`'s figure over that of the arms `along` a frontier at its cost, interpolated between
    them, and that of the nearest beyond them."""

    def of(cells: Sequence[Cell]) -> float:
        at = {(cell.arm, cell.seed): (cell.figures[cost], cell.figures[figure]) for cell in cells}
        ratios = []
        for seed in [seed for name, seed in at if name == arm]:
            spent, reached = at[arm, seed]
            costs, others = zip(*sorted(at[other, seed] for other in along), strict=True)
            ratios.append(reached / np.interp(spent, costs, others))
        return float(min(ratios))

    return of


def gain_at(*, arm: str, figure: str, over: str, against: str, at: float) -> Statistic:
    """One figure less another of the same runs at a place on the grid: the mean over seeds."""
    return lambda cells: float(np.mean(_gains(cells, arm, figure, over, against, at)))


def least_gain_at(*, arm: str, figure: str, over: str, against: str, at: float) -> Statistic:
    """The same, least of the seeds."""
    return lambda cells: min(_gains(cells, arm, figure, over, against, at))


def _gains(cells: Sequence[Cell], arm: str, figure: str, over: str, against: str, at: float) -> list[float]:
    return [c.figures[figure] - c.figures[over] for c in cells if c.arm == arm and c.at[against] == at]


def needed_ratio(*, figure: str, level: float, against: str, arm: str, other: str) -> Statistic:
    """The first place on a grid at which the seeds' mean of `arm` reaches the level, over that of `other`; infinite
    where `arm` never does, nan where `other` does not."""

    def needed(cells: Sequence[Cell], name: str) -> float:
        for x in sorted({cell.at[against] for cell in cells if cell.arm == name}):
            if np.mean([c.figures[figure] for c in cells if c.arm == name and c.at[against] == x]) >= level:
                return float(x)
        return float("inf")

    def of(cells: Sequence[Cell]) -> float:
        ours, theirs = needed(cells, arm), needed(cells, other)
        return float("nan") if np.isinf(theirs) else ours / theirs

    return of


def change(*, arm: str, figure: str, against: str, since: float, until: float) -> Statistic:
    """The seeds' mean of a figure at one place on a grid less that at another."""

    def at(cells: Sequence[Cell], place: float) -> float:
        return float(np.mean([c.figures[figure] for c in cells if c.arm == arm and c.at[against] == place]))

    return lambda cells: at(cells, until) - at(cells, since)


def largest_gap(*, figures: Sequence[str], arm: str, other: str) -> Statistic:
    """The largest paired |`arm` - `other`| over seeds and figures."""

    def of(cells: Sequence[Cell]) -> float:
        value = {(c.arm, c.seed): np.array([c.figures[f] for f in figures]) for c in cells if c.arm in (arm, other)}
        return float(max(np.abs(value[arm, k] - value[other, k]).max() for name, k in value if name == arm))

    return of


def largest_distance(*, arm: str, targets: Mapping[str, float]) -> Statistic:
    """The largest |figure - its target| over seeds and figures."""
    return lambda cells: float(
        max(abs(c.figures[name] - aim) for c in cells if c.arm == arm for name, aim in targets.items())
    )


def widest(*, arm: str, figures: Sequence[str], against: str) -> Statistic:
    """Of the laws that `figures` are the shares of, the largest total variation between two places of a grid; the mean
    over seeds."""

    def of(cells: Sequence[Cell]) -> float:
        laws: dict[int, dict[str, np.ndarray]] = {}
        for cell in cells:
            if cell.arm == arm:
                shares = np.array([cell.figures[name] for name in figures])
                laws.setdefault(cell.seed, {})[str(cell.at[against])] = shares
        gaps = [max(np.abs(p - q).sum() / 2 for p, q in combinations(here.values(), 2)) for here in laws.values()]
        return float(np.mean(gaps))

    return of


def interval(statistic: Statistic, cells: Sequence[Cell], level: float = 0.9) -> tuple[float, float]:
    """A bootstrap interval of the statistic: seeds are drawn again, all cells of a seed together."""
    seeds = sorted({cell.seed for cell in cells})
    by_seed = {seed: [cell for cell in cells if cell.seed == seed] for seed in seeds}
    draws = np.random.default_rng(0)
    values = []
    for _ in range(RESAMPLES if len(seeds) > 1 else 0):
        drawn = draws.choice(len(seeds), size=len(seeds))
        again = [
            Cell(cell.arm, place, cell.at, cell.figures) for place, k in enumerate(drawn) for cell in by_seed[seeds[k]]
        ]
        values.append(statistic(again))
    if not values:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
