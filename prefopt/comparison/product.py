"""Objectives by robustifiers: the pairwise family as the product that it is."""

from collections.abc import Iterator
from typing import Any

from prefopt.comparison.analysis import NOTHING, Comparison
from prefopt.comparison.design import Placed
from prefopt.comparison.measures import Measure
from prefopt.comparison.tables import Entry, Table, capital, interval, titled


def of_product(comparison: Comparison, of: Measure) -> Iterator[Table]:
    """A figure's means by objective and robustifier, a table a noise rate; none where neither or only one varies."""
    design = comparison.design
    for setting in design.settings:
        for rate in comparison.rates(setting, of.key):
            here = [place for place in design.placed if (place.setting, place.rate) == (setting, rate)]
            arms = {_parts(place): place.arm for place in here}
            if any(None in parts for parts in arms) or len(arms) < len(set(arms.values()) | {p.arm for p in here}):
                continue
            rows, columns = (sorted({parts[side] for parts in arms}) for side in (0, 1))
            if min(len(rows), len(columns)) < 2:
                continue
            best = comparison.best(of, setting, sorted(arms.values()), rate)
            yield Table(
                titled(f"{capital(of.name)} at noise rate {rate:g}, objective by robustifier", setting),
                f"{of.key}. Mean over n seeds ± half the 95 % t-interval. Scales of beta differ between objectives, "
                "so read along a row.",
                ("objective", *columns),
                tuple(
                    (Entry(row), *(_entry(comparison, of, setting, arms.get((row, c)), rate, best) for c in columns))
                    for row in rows
                ),
            )


def _parts(place: Placed) -> tuple[Any, Any]:
    choices = place.cell.config["choices"]
    return choices.get("objective"), choices.get("robust")


def _entry(comparison: Comparison, of: Measure, setting: str, arm: str | None, rate: float, best: set[str]) -> Entry:
    if arm is None:
        return Entry(NOTHING, "no cell")
    found = comparison.estimate(of.key, setting, arm, rate)
    return Entry(interval(found), f"n {found.n}" if found.n else "not done", "best" if arm in best else "")
