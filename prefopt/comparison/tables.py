"""The tables of a comparison, free of any format."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from prefopt.comparison import differences, statistics
from prefopt.comparison.analysis import AREA, NOTHING, SIGNIFICANT, Comparison, Test
from prefopt.comparison.design import Design
from prefopt.comparison.measures import Measure


class Entry(NamedTuple):
    """One place of a table. under: what is said in small below it. tone: "", best, better, worse or lacking."""

    text: str
    under: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """header: one more than the first is said for each row. rows: each begins with the entry that names it.

    arms: whether rows are named after arms, and so have their colours.
    """

    title: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    arms: bool = False


def number(value: float) -> str:
    """Three digits behind the point, fewer where there are many before it."""
    if math.isnan(value):
        return NOTHING
    return f"{value:z.3f}" if abs(value) < 100 else f"{value:,.1f}"


def interval(of: statistics.Estimate) -> str:
    """A mean and half the width of its interval."""
    return number(of.mean) + ("" if math.isnan(of.half) else f" ± {number(of.half)}")


def probability(p: float) -> str:
    return NOTHING if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def of_figure(comparison: Comparison, of: Measure) -> Iterator[Table]:
    """Arms by noise rates, with the area under the curve and the breakdown rate."""
    for setting in comparison.design.settings:
        rates = comparison.rates(setting, of.key)
        if not rates:
            continue
        arms = [arm for arm in comparison.design.arms if any(comparison.design.at(setting, arm, r) for r in rates)]
        best = {where: comparison.best(of, setting, arms, where) for where in comparison.places(setting, of.key)}
        rows = []
        for arm in arms:
            entries = [Entry(arm)]
            entries += [_entry(comparison, of, setting, arm, rate, arm in best[rate]) for rate in rates]
            if len(rates) > 1:
                area = comparison.estimate(of.key, setting, arm, AREA)
                tone = "best" if arm in best[AREA] else ""
                entries.append(Entry(interval(area), f"n {area.n}" if area.n else "", tone))
                if of.level is not None:
                    entries.append(Entry(_breakdown(comparison, of, setting, arm)))
            rows.append(tuple(entries))
        header = ["method", *(f"noise {rate:g}" for rate in rates)]
        if len(rates) > 1:
            header += ["area under curve"] + (["breakdown rate"] if of.level is not None else [])
        yield Table(
            titled(capital(of.name) + (f" ({of.unit})" if of.unit and of.unit not in of.name else ""), setting),
            _caption(comparison, of, rates),
            tuple(header),
            tuple(rows),
            arms=True,
        )


def _caption(comparison: Comparison, of: Measure, rates: Sequence[float]) -> str:
    if of.key == comparison.main.key:
        parts = [
            f"{of.key}. Mean over n seeds ± half the 95 % t-interval; the best in bold, where all have the same seeds."
        ]
        if len(rates) > 1:
            parts.append("Area: under the lines between the noise rates, over their range; a mean of rates, per seed.")
    else:
        parts = [f"{of.key}. {of.meaning} {capital(of.direction)}."]
    if len(rates) > 1 and of.level is not None:
        level = f"the start ({of.level})" if isinstance(of.level, str) else f"{of.level:g}"
        parts.append(
            f"Breakdown: the lowest noise rate at which the paired 95 % interval of the gain over {level} reaches 0, "
            f"interpolated; {NOTHING} where there is none up to {rates[-1]:g}."
        )
    return " ".join(parts)


def _entry(comparison: Comparison, of: Measure, setting: str, arm: str, rate: float, best: bool) -> Entry:
    places = comparison.design.at(setting, arm, rate)
    planned, unfinished = {p.seed for p in places}, sum(not p.cell.done for p in places)
    found = comparison.estimate(of.key, setting, arm, rate)
    if not planned:
        return Entry(NOTHING, "no cell")
    if not found.n and not unfinished:
        return Entry(NOTHING, "not measured")
    under = f"n {found.n}" if found.n == len(planned) else f"n {found.n} of {len(planned)}"
    if comparison.kl and of.key in ("gold/win_rate", "gold/reward"):
        kl = comparison.estimate(comparison.kl, setting, arm, rate)
        under = f"KL {kl.mean:.2f}, {under}" if kl.n else under
    tone = "lacking" if found.n < len(planned) else "best" if best else ""
    return Entry(interval(found), under, tone)


def _breakdown(comparison: Comparison, of: Measure, setting: str, arm: str) -> str:
    at = statistics.breakdown(comparison.advantage(of, setting, arm))
    return NOTHING if at is None else "n < 2" if math.isnan(at) else f"{at:.3f}"


def of_tests(comparison: Comparison, tests: Sequence[Test]) -> Iterator[Table]:
    family = sum(not math.isnan(test.paired.p) for test in tests)
    for setting in comparison.design.settings:
        rows = []
        for test in tests:
            if test.setting != setting:
                continue
            found = test.paired.difference
            bounds = NOTHING if math.isnan(found.low) else f"{number(found.low)} .. {number(found.high)}"
            tone = test.verdict if test.verdict in ("better", "worse") else ""
            rows.append(
                (
                    Entry(test.arm),
                    Entry("area" if isinstance(test.where, str) else f"noise {test.where:g}"),
                    Entry(number(found.mean)),
                    Entry(bounds),
                    Entry(str(found.n)),
                    Entry(probability(test.paired.p)),
                    Entry(probability(test.corrected)),
                    Entry(test.verdict, "", tone),
                )
            )
        if rows:
            yield Table(
                titled(f"Paired tests against {comparison.baseline}", setting),
                f"Paired t-tests over seeds, two-sided, corrected by Holm as one family of {family}; "
                f"a verdict where the corrected p is below {SIGNIFICANT:g}. No p with fewer than two seeds, "
                "or where the differences do not vary.",
                ("method", "where", "difference", "95 % interval", "n", "p", "p (Holm)", "verdict"),
                tuple(rows),
                arms=True,
            )


def of_ranks(comparison: Comparison) -> Iterator[Table]:
    for setting in comparison.design.settings:
        by_rate = comparison.blocks(setting)
        blocks = [block for rate in by_rate for block in by_rate[rate]]
        if not blocks or len(blocks[0]) < 2 or comparison.main.better == 0:
            continue
        mean = {arm: sum(block[arm] for block in blocks) / len(blocks) for arm in blocks[0]}
        rows = []
        for arm in sorted(mean, key=lambda arm: (mean[arm], arm)):
            at_rates = [statistics.estimate([block[arm] for block in here]).mean for here in by_rate.values()]
            tone = "best" if mean[arm] == min(mean.values()) < max(mean.values()) else ""
            rows.append((Entry(arm), Entry(f"{mean[arm]:.2f}", "", tone), *(Entry(_rank(rank)) for rank in at_rates)))
        test = statistics.friedman(blocks)
        said = (
            f"Friedman's chi-squared {test.statistic:.2f}, p {probability(test.p)}; blocks of one seed are not quite "
            "independent, so read it as a description."
            if test
            else "Friedman's test needs three arms, two blocks and ranks that differ."
        )
        yield Table(
            titled(f"Mean rank by {comparison.main.name}", setting),
            f"1 is the best; over {len(blocks)} blocks (a seed at a noise rate) that all methods share. {said}",
            ("method", "mean rank", *(f"noise {rate:g}" for rate in by_rate)),
            tuple(rows),
            arms=True,
        )


def _rank(mean: float) -> str:
    return NOTHING if math.isnan(mean) else f"{mean:.2f}"


def of_differences(design: Design, surroundings: Sequence[differences.Difference]) -> Iterator[Table]:
    unfinished = [place for place in design.placed if not place.cell.done]
    if unfinished:
        rows = [
            (
                Entry(p.cell.run),
                Entry(titled(p.arm, p.setting)),
                Entry(f"{p.rate:g}"),
                Entry(str(p.seed)),
                Entry(p.cell.state, "", "lacking"),
                Entry(p.cell.error.splitlines()[0] if p.cell.error else NOTHING),
            )
            for p in unfinished
        ]
        yield Table(
            "Cells that are not done",
            "None of these is in any mean.",
            ("run", "method", "noise", "seed", "state", "error"),
            tuple(rows),
        )
    for title, caption, found in (
        ("Configs", "Keys of the resolved configs whose values differ between cells.", differences.of_configs(design)),
        ("Examples", "Counted while the data was read.", differences.of_data(design)),
        ("Surroundings", "Versions, machine and commit of the cells that are done.", surroundings),
    ):
        if found:
            yield Table(title, caption, ("key", "values"), tuple((Entry(d.key), Entry(_values(d))) for d in found))


def _values(of: differences.Difference) -> str:
    return "; ".join(value + (f" ({', '.join(who)})" if who else "") for value, who in of.values)


def titled(title: str, setting: str) -> str:
    return f"{title}, {setting}" if setting else title


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
