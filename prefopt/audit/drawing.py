"""The figure of an audit: what the estimators say, and what they say it from."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prefopt.audit.findings import Findings
from prefopt.audit.likelihood import logistic
from prefopt.evaluation.figures import BLUE, GREY, INK, RED, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 12
SHOWN = 24
"""Parts of the data, at most: those with the largest lower ends."""


def drawn(findings: Findings, folder: Path) -> list[Path]:
    """Left, each estimate with its interval, and those of the parts; right, how often labels contradict the margin."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    lines = len(findings.estimates) + min(len(findings.parts), SHOWN)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, max(3.4, 0.9 + 0.19 * lines)), layout="constrained")
        left, right = figure.subplots(1, 2)
        _intervals(findings, left)
        _contradictions(findings, right)
        folder.mkdir(parents=True, exist_ok=True)
        png, svg = folder / "audit.png", folder / "audit.svg"
        figure.savefig(png, dpi=150)
        figure.savefig(svg, metadata={"Date": None})
    return [png, svg]


def _intervals(findings: Findings, axis: "Axes") -> None:
    shown = [(name, estimate, RED) for name, estimate in findings.estimates.items()]
    worst = sorted(findings.parts, key=lambda part: -part.estimate.low)[:SHOWN]
    shown += [(f"{part.by} {part.name}", part.estimate, BLUE) for part in findings.parts if part in worst]
    for place, (_, estimate, colour) in enumerate(shown):
        axis.plot([estimate.low, estimate.high], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
        if estimate.sound:
            axis.plot([estimate.rate], [place], color=colour, marker="o", markersize=4.5)
    axis.set_yticks(range(len(shown)), [name for name, _, _ in shown])
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.set_xlim(-0.01, 0.51)
    axis.grid(axis="x")
    axis.grid(visible=False, axis="y")
    axis.set_title("Flip rate, 90 % intervals")
    axis.set_xlabel("share of the recorded labels; no dot: an interval too wide to act on")


def _contradictions(findings: Findings, axis: "Axes") -> None:
    confidence, wrong = np.abs(findings.margins) * findings.fit.scale, findings.margins < 0
    for rows in np.array_split(np.argsort(confidence, kind="stable"), BINS):
        share, at = float(wrong[rows].mean()), float(confidence[rows].mean())
        error = 1.645 * np.sqrt(share * (1 - share) / len(rows))
        axis.errorbar(at, share, yerr=error, color=INK, marker="o", markersize=4, linewidth=1)
    e, low, high = findings.fit.rate, findings.headline.low, findings.headline.high
    grid = np.linspace(0, float(np.quantile(confidence, 0.99)), 200)
    axis.plot(grid, e + (1 - 2 * e) * logistic(-grid), color=RED, linewidth=1.4, label="noisy Bradley-Terry")
    axis.axhspan(low, high, color=RED, alpha=0.12, linewidth=0, label="flip rate, 90 %")
    axis.axhline(0.5, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    axis.set_ylim(0, 0.6)
    axis.set_title("Labels against the margin")
    axis.set_xlabel("|margin| out of fold (nats)")
    axis.set_ylabel("share recorded the other way")
    axis.legend(loc="upper right")
