"""The figure set of a run: learning curves, margins of clean and flipped pairs, reliability, and the answers."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from prefopt.tracking.events import read

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from prefopt.evaluation.calibration import Bins

BLUE, RED, GREY, INK = "#2b6a99", "#c8502f", "#9aa3ab", "#2a2f34"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e6e9ec",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "prefopt",
}


TRAIN: dict[str, Any] = {"color": BLUE, "linewidth": 0.8, "alpha": 0.75, "label": "training"}
EVALUATED: dict[str, Any] = {"color": RED, "linewidth": 1.2, "marker": "o", "markersize": 4.5, "label": "evaluation"}


class Panel(NamedTuple):
    """One quantity: its name in training ("": only evaluated), its names in evaluation, unit, level to compare with."""

    title: str
    train: str
    evaluated: tuple[str, ...]
    unit: str
    level: float | None = None


PANELS = (
    Panel("Loss", "loss", ("eval/loss",), "nats"),
    Panel("Reward accuracy", "rewards/accuracies", ("eval/rewards/accuracies",), "share of pairs", 0.5),
    Panel("Reward margin", "rewards/margins", ("eval/rewards/margins",), "nats"),
    Panel("Gold reward", "", ("gold/reward",), "gold reward"),
    Panel("Proxy reward", "", ("proxy/standardised",), "sd of the start", 0.0),
    Panel("Gold win rate over the start", "", ("gold/win_rate",), "share of prompts", 0.5),
    Panel("KL to the start", "kl", ("eval/kl", "gold/kl"), "nats a response", 0.0),
    Panel("Regret", "", ("regret",), "expected reward", 0.0),
)


def learning_curves(events: Path, folder: Path) -> list[Path]:
    """Small multiples over the optimiser step: training as thin lines, evaluations as thick points.

    No files where none of the panels' metrics was recorded.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    for event in read(events):
        for name, value in event.metrics.items():
            curves.setdefault(name, []).append((event.step, value))
    panels = [panel for panel in PANELS if {panel.train, *panel.evaluated} & curves.keys()]
    if not panels:
        return []
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with _figure(3.4 * columns, 2.5 * rows) as figure:
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
        handles = {}
        for panel, axis in zip(panels, axes, strict=False):
            if panel.level is not None:
                axis.axhline(panel.level, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
            for name in (name for name in (panel.train, *panel.evaluated) if name in curves):
                look = TRAIN if name == panel.train else EVALUATED
                (handles[look["label"]],) = axis.plot(*zip(*curves[name], strict=True), **look)
            axis.set_title(panel.title)
            axis.set_ylabel(panel.unit)
        for position, axis in enumerate(axes):
            axis.set_visible(position < len(panels))
            if position + columns >= len(panels):
                axis.set_xlabel("optimiser step")
                axis.tick_params(labelbottom=True)
        figure.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=2)
        return _save(figure, folder / "learning_curves")


def margin_histogram(margins: np.ndarray, flipped: np.ndarray, folder: Path) -> list[Path]:
    """Densities of the implied reward margin, recorded winner less recorded loser, apart for clean and flipped pairs.

    margins: [N] nats. flipped: [N] true where noise turned the label round. The outermost bins hold what lies beyond;
    what is not finite is counted in the title.
    """
    finite = np.isfinite(margins)
    lost = f" ({np.count_nonzero(~finite)} not finite)" if not finite.all() else ""
    margins, flipped = margins[finite], flipped[finite].astype(bool)
    low, high = np.quantile(margins, [0.001, 0.999]) if margins.size else (0.0, 0.0)
    edges = np.histogram_bin_edges(margins, bins=40, range=(low, high))
    with _figure(5.6, 3.2) as figure:
        axis = figure.subplots()
        axis.axvline(0.0, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
        for name, chosen, colour in (("clean", ~flipped, BLUE), ("flipped", flipped, RED)):
            group = margins[chosen]
            if not group.size:
                continue
            density, _ = np.histogram(group.clip(edges[0], edges[-1]), bins=edges, density=True)
            label = f"{name}: {group.size:,} pairs, {np.mean(group > 0):.0%} above 0"
            axis.stairs(density, edges, fill=True, color=colour, alpha=0.25)
            axis.stairs(density, edges, color=colour, linewidth=1.4, label=label)
        axis.set_title(f"Implied reward margin of the recorded label{lost}")
        axis.set_xlabel("reward of the recorded winner less that of the recorded loser (nats)")
        axis.set_ylabel("density (per nat)")
        figure.legend(loc="outside lower center", ncols=2)
        return _save(figure, folder / "margins")


def reliability_diagram(bins: "Bins", folder: Path) -> list[Path]:
    """How often a reward is right against how sure it is, with 95 % Wilson intervals, and how many pairs that rests on.

    Below the dashed line it is surer than it should be.
    """
    from scipy.stats import binomtest

    found = (binomtest(round(n * right), n) for n, right in zip(bins.pairs, bins.right, strict=True))
    low, high = np.array([test.proportion_ci(method="wilson") for test in found]).T
    with _figure(4.2, 4.4) as figure:
        axis, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        axis.plot([0.5, 1], [0.5, 1], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
        axis.vlines(bins.confidence, low, high, color=BLUE, linewidth=1.0)
        axis.plot(bins.confidence, bins.right, color=BLUE, linewidth=1.2, marker="o", markersize=4.5)
        axis.set(ylim=(0, 1.02), ylabel="share ranked right")
        axis.set_title(f"Reliability on {bins.pairs.sum():,} held-out pairs")
        below.bar(bins.confidence, bins.pairs, width=0.03, color=GREY)
        below.set(xlim=(0.49, 1.01), xlabel="confidence, sigmoid of the reward margin's size", ylabel="pairs")
        return _save(figure, folder / "reliability")


def samples_table(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """What SFT and policy answer, as `samples.jsonl` and as a page that needs nothing else.

    rows: prompt, sft, policy (texts), gold_sft, gold_policy (numbers, None where the truth is not known).
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines, page = folder / "samples.jsonl", folder / "samples.html"
    lines.write_text("".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    body = "\n".join(_html_row(row) for row in rows)
    page.write_text(PAGE.format(summary=escape(_summary(rows)), body=body), encoding="utf-8")
    return [lines, page]


def _summary(rows: Sequence[Mapping[str, Any]]) -> str:
    judged = [
        (r["gold_sft"], r["gold_policy"]) for r in rows if r["gold_sft"] is not None and r["gold_policy"] is not None
    ]
    if not judged:
        return f"{len(rows)} prompts; the gold reward of their answers is not known."
    sft, policy = np.array(judged, dtype=float).T
    won = np.mean((policy > sft) + 0.5 * (policy == sft))
    return (
        f"{len(rows)} prompts. Mean gold reward {sft.mean():.3f} (SFT) and {policy.mean():.3f} (policy); "
        f"the policy wins {won:.0%}, a tie counting half."
    )


def _html_row(row: Mapping[str, Any]) -> str:
    texts = "".join(f"<td>{escape(str(row[name]))}</td>" for name in ("prompt", "sft", "policy"))
    sft, policy = row["gold_sft"], row["gold_policy"]
    if sft is None or policy is None:
        return f"<tr>{texts}<td class=n>&ndash;</td><td class=n>&ndash;</td><td class=n>&ndash;</td></tr>"
    sign = "up" if policy > sft else "down" if policy < sft else ""
    numbers = f"<td class=n>{sft:.3f}</td><td class=n>{policy:.3f}</td><td class='n {sign}'>{policy - sft:+.3f}</td>"
    return f"<tr>{texts}{numbers}</tr>"


@contextmanager
def _figure(width: float, height: float) -> Iterator["Figure"]:
    """A figure in the house style, in inches, free of pyplot's global state and of any display."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        yield Figure(figsize=(width, height), dpi=150, layout="constrained")


def _save(figure: "Figure", stem: Path) -> list[Path]:
    """Write the figure as PNG and SVG, laid out and drawn once for each: `savefig` does both twice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    stem.parent.mkdir(parents=True, exist_ok=True)
    png, svg = stem.with_suffix(".png"), stem.with_suffix(".svg")
    FigureCanvasAgg(figure).print_png(png)
    figure.set_layout_engine("none")
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
    return [png, svg]


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Samples</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }}
h1 {{ font-size: 1.3rem; margin: 0; }}
p {{ margin: .3rem 0 1.2rem; opacity: .75; }}
table {{ border-collapse: collapse; width: 100%; }}
th {{ position: sticky; top: 0; background: Canvas; text-align: left; font-size: .85rem; }}
th, td {{ padding: .5rem .7rem; border-bottom: 1px solid #8884; vertical-align: top; }}
td {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
.n {{ text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }}
.up {{ color: #2b8a57; }}
.down {{ color: #c8502f; }}
</style>
<h1>What the policy answers</h1>
<p>{summary}</p>
<table>
<thead><tr><th>Prompt<th>SFT<th>Policy<th class=n>Gold, SFT<th class=n>Gold, policy<th class=n>Difference</tr></thead>
<tbody>
{body}
</tbody>
</table>
</html>
"""
