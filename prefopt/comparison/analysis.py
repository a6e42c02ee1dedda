"""A design seen through one figure and from one baseline: everything that is computed of it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from prefopt.comparison import statistics
from prefopt.comparison.design import Design
from prefopt.comparison.measures import KL, KNOWN, PREFERRED, Measure, measure
from prefopt.errors import PrefoptError

SIGNIFICANT = 0.05
AREA: Literal["area"] = "area"
NOTHING = "-"


Where = float | Literal["area"]


class Test(NamedTuple):
    """A paired test of an arm against the baseline: at one noise rate, or of the area under the curve."""

    setting: str
    arm: str
    where: Where
    paired: statistics.Paired
    corrected: float
    better: int

    @property
    def holds(self) -> bool:
        return self.corrected < SIGNIFICANT

    @property
    def verdict(self) -> str:
        if not self.holds:
            return NOTHING
        up = self.paired.difference.mean > 0
        if self.better == 0:
            return "higher" if up else "lower"
        return "better" if up == (self.better > 0) else "worse"


class Comparison:
    """A design seen through one figure and from one baseline; all that is computed of it."""

    def __init__(self, design: Design, *, figure: str | None, baseline: str | None) -> None:
        self.design = design
        if not design.done:
            states = sorted({place.cell.state for place in design.placed})
            raise PrefoptError(
                f"none of {len(design.placed)} cells is done ({', '.join(states)})",
                "let the sweep go on; python -m prefopt.sweep status says how far it is",
            )
        self.measured = {key for cell in design.done for key, value in cell.figures.items() if math.isfinite(value)}
        if not self.measured:
            raise PrefoptError(
                f"none of the {len(design.done)} cells that are done has a figure that is finite",
                "look at their results.json; evaluation=... says what is measured",
            )
        self.main = measure(self._chosen(figure))
        self.baseline = design.baseline(baseline)
        self.kl = next((key for key in KL if key in self.measured), None)

    def _chosen(self, figure: str | None) -> str:
        if figure is None:
            preferred = [key for key in PREFERRED if key in self.measured]
            return max(preferred or sorted(self.measured), key=lambda key: self._count(key))
        if figure not in self.measured:
            raise PrefoptError(
                f"--figure {figure}: no cell that is done has measured it, or no value is finite",
                f"choose one of {', '.join(sorted(self.measured))}",
            )
        return figure

    def _count(self, key: str) -> int:
        return sum(key in cell.figures for cell in self.design.done)

    def measures(self) -> list[Measure]:
        """The figures worth a table, the main one first."""
        keys = [self.main.key, *(key for key in KNOWN if key in self.measured and key != self.main.key)]
        return [measure(key) for key in keys]

    def rates(self, setting: str, key: str) -> list[float]:
        """The noise rates at which a figure was measured, or may yet be."""
        here = [place for place in self.design.placed if place.setting == setting]
        return sorted({place.rate for place in here if key in place.cell.figures or not place.cell.done})

    def places(self, setting: str, key: str) -> list[Where]:
        """Where a figure can be compared: at each noise rate, and in area where there are several."""
        rates = self.rates(setting, key)
        return [*rates, AREA] if len(rates) > 1 else [*rates]

    def values(self, key: str, setting: str, arm: str, where: Where) -> dict[int, float]:
        """A figure by seed, at a noise rate or as the area under its curve."""
        if isinstance(where, str):
            return self._areas(key, setting, arm)
        return self.design.values(key, setting, arm, where)

    def estimate(self, key: str, setting: str, arm: str, where: Where) -> statistics.Estimate:
        return statistics.estimate(list(self.values(key, setting, arm, where).values()))

    def best(self, of: Measure, setting: str, arms: Sequence[str], where: Where) -> set[str]:
        """The arms with the best mean; none where no direction is better, all are alike, or seeds are not the same."""
        values = {arm: found for arm in arms if (found := self.values(of.key, setting, arm, where))}
        if len({tuple(found) for found in values.values()}) != 1:
            return set()
        means = {arm: of.better * float(f"{self.estimate(of.key, setting, arm, where).mean:.12g}") for arm in values}
        return {arm for arm, mean in means.items() if min(means.values()) < mean == max(means.values())}

    def _areas(self, key: str, setting: str, arm: str) -> dict[int, float]:
        """Area under the curve by seed, of the seeds that have all noise rates of the setting."""
        curves = {rate: self.design.values(key, setting, arm, rate) for rate in self.rates(setting, key)}
        if len(curves) < 2:
            return {}
        seeds = sorted(set.intersection(*(set(values) for values in curves.values())))
        return {seed: statistics.area({rate: values[seed] for rate, values in curves.items()}) for seed in seeds}

    def advantage(self, of: Measure, setting: str, arm: str) -> dict[float, dict[int, float]]:
        """By rate and seed, how much better a figure is than its level; empty where it has none."""
        found: dict[float, dict[int, float]] = {}
        if of.level is None:
            return found
        for rate in self.rates(setting, of.key):
            values = self.design.values(of.key, setting, arm, rate)
            if isinstance(of.level, str):
                levels: Mapping[int, float] = self.design.values(of.level, setting, arm, rate)
            else:
                levels = dict.fromkeys(values, of.level)
            found[rate] = {seed: of.better * (values[seed] - levels[seed]) for seed in values if seed in levels}
        return found

    def tests(self) -> list[Test]:
        """All paired tests of the main figure, one family under Holm's correction."""
        found = []
        for setting in self.design.settings:
            for arm in self.design.arms:
                if arm != self.baseline:
                    found += [(setting, arm, where, test) for where, test in self._against(setting, arm)]
        corrected = statistics.holm([test.p for *_, test in found])
        return [Test(*known, p, self.main.better) for known, p in zip(found, corrected, strict=True)]

    def _against(self, setting: str, arm: str) -> Iterator[tuple[Where, statistics.Paired]]:
        for where in self.places(setting, self.main.key):
            ours, theirs = (self.values(self.main.key, setting, a, where) for a in (arm, self.baseline))
            if ours or theirs:
                yield where, statistics.paired(ours, theirs)

    def blocks(self, setting: str) -> dict[float, list[dict[str, float]]]:
        """Ranks of the arms in each block (a seed at a noise rate) that all arms of the setting share."""
        arms = sorted({place.arm for place in self.design.placed if place.setting == setting})
        found: dict[float, list[dict[str, float]]] = {}
        for rate in self.rates(setting, self.main.key):
            values = {arm: self.design.values(self.main.key, setting, arm, rate) for arm in arms}
            seeds = sorted(set.intersection(*(set(each) for each in values.values())))
            found[rate] = [
                statistics.ranks({arm: values[arm][seed] for arm in arms}, higher_is_better=self.main.better > 0)
                for seed in seeds
            ]
        return found
