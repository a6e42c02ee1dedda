"""Gold against proxy reward on the way from the start, as a run recorded it and as a picture."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from prefopt.evaluation.figures import BLUE, GREY, RED, _figure, _save
from prefopt.tracking.events import read

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEST_OF = re.compile(r"(best_of/(\d+))/proxy")
UNIT = "standard deviations of the start"


class Point(NamedTuple):
    """kl: nats from the start, at most or just so. gold, proxy: in standard deviations of the start's answers."""

    kl: float
    gold: float
    proxy: float


START = Point(0.0, 0.0, 0.0)


def way(events: Path) -> dict[int, Point]:
    """The points of a run after its start: of best-of-n by n, else by optimiser step; none without a proxy and gold."""
    steps: dict[int, Point] = {}
    best: dict[int, Point] = {}
    for event in read(events) if events.exists() else ():
        figures = event.metrics
        keys = [(steps, event.step, ("gold/kl", "gold/standardised", "proxy/standardised"))]
        for found in filter(None, map(BEST_OF.fullmatch, figures)):
            stem, n = found.groups()
            kl = f"{stem}/kl" if f"{stem}/kl" in figures else f"{stem}/kl_bound"
            keys.append((best, int(n), (kl, f"{stem}/gold", f"{stem}/proxy")))
        for points, place, names in keys:
            point = Point(*(figures.get(name, math.nan) for name in names))
            if all(map(math.isfinite, point)):
                points[place] = point
    return best or steps


def overoptimisation(events: Path, folder: Path) -> list[Path]:
    """Gold and proxy reward over the KL to the start; no files where there are less than two points."""
    points = way(events)
    if len(points) < 2:
        return []
    shown = [START, *(points[place] for place in sorted(points))]
    kl = [point.kl for point in shown]
    with _figure(4.6, 3.2) as figure:
        axis = figure.subplots()
        axis.axhline(0.0, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
        axis.plot(kl, [point.proxy for point in shown], color=RED, linestyle="dashed", marker="o", label="proxy")
        axis.plot(kl, [point.gold for point in shown], color=BLUE, marker="o", label="gold")
        axis.set_title("Reward on the way from the start")
        axis.set_ylabel(UNIT)
        over_kl(axis)
        figure.legend(loc="outside lower center", ncols=2)
        return _save(figure, folder / "overoptimisation")


def over_kl(axis: "Axes") -> None:
    """Make the x axis one of KL, on which its square root is even (as in Gao et al., 2023, arXiv 2210.10760)."""
    axis.set_xscale("function", functions=(lambda kl: np.sqrt(np.maximum(kl, 0.0)), np.square))
    axis.locator_params(axis="x", nbins=6)
    axis.set_xlim(left=0.0)
    axis.set_xlabel("KL to the start (nats)")
