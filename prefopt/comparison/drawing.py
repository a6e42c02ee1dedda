"""The figure set of a comparison: each figure as PNG and SVG, one colour and marker a method throughout."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prefopt.comparison.analysis import Comparison
from prefopt.comparison.measures import Measure
from prefopt.comparison.statistics import Estimate, estimate
from prefopt.evaluation.figures import GREY, INK, PANELS, STYLE, Panel
from prefopt.evaluation.overoptimisation import START, UNIT, Point, over_kl, way
from prefopt.tracking.events import EVENTS, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7f85")
"""Okabe and Ito's, told apart by the colour-blind; markers say the same."""
MARKERS = "osD^vPX"
DASHED = (0, (4, 3))
LETTERS_AN_INCH = 14
LABELLED = 4
"""Noise rates up to which every point of the reward-KL plane says its own."""


class Drawing(NamedTuple):
    """A figure: its files, and in words what it shows."""

    name: str
    title: str
    alt: str
    png: Path
    svg: Path


class Look(NamedTuple):
    """How an arm is drawn: the seven colours come again with broken lines and other markers."""

    color: str
    marker: str
    linestyle: Any


def looks(arms: Sequence[str]) -> dict[str, Look]:
    """The look of each arm."""
    n = len(PALETTE)
    return {
        arm: Look(PALETTE[k % n], MARKERS[(k + k // n) % n], "solid" if k < n else DASHED)
        for k, arm in enumerate(sorted(arms))
    }


def drawn(comparison: Comparison, folder: Path) -> list[Drawing]:
    """Draw what can be drawn of this comparison into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = (_degradation, _differences, _reward_and_kl, _overoptimisation, _others, _training)
    return [drawing for kind in kinds if (drawing := kind(comparison, folder)) is not None]


def _degradation(comparison: Comparison, folder: Path) -> Drawing | None:
    main, settings = comparison.main, comparison.design.settings
    with _figure(max(7.4, 3.7 * len(settings)), 3.6) as figure:
        axes = figure.subplots(1, len(settings), squeeze=False, sharey=True)[0]
        for axis, setting in zip(axes, settings, strict=True):
            _against_rate(comparison, main, setting, axis)
            axis.set_title(setting)
        axes[0].set_ylabel(main.unit or main.key)
        _legend(figure, axes, comparison)
        title = f"{main.name[:1].upper()}{main.name[1:]} against the noise rate"
        alt = f"{title}: mean over seeds and 95 % interval. The same numbers are in the table below."
        return _saved(figure, folder, "degradation", title, alt)


def _against_rate(comparison: Comparison, of: Measure, setting: str, axis: "Axes") -> None:
    rates = comparison.rates(setting, of.key)
    if not rates:
        return
    if of.level is not None:
        level = _level(comparison, of, setting)
        axis.plot(*zip(*level, strict=True), color=GREY, linewidth=1, linestyle=DASHED, label="no gain")
    arms = comparison.design.arms
    for k, arm in enumerate(arms):
        found = [(rate, comparison.estimate(of.key, setting, arm, rate)) for rate in rates]
        points = [(rate, e) for rate, e in found if e.n]
        if len(rates) > 1:
            _line(axis, points, looks(arms)[arm], arm)
        else:
            _dot(axis, [(k, e) for _, e in points], looks(arms)[arm], arm)
    if len(rates) > 1:
        axis.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axis.set_xlabel("noise rate")
    else:
        axis.set_xticks([])
        axis.set_xlabel(f"noise rate {rates[0]:g}")


def _level(comparison: Comparison, of: Measure, setting: str) -> list[tuple[float, float]]:
    rates = comparison.rates(setting, of.key)
    span = rates if len(rates) > 1 else [0.0, float(max(1, len(comparison.design.arms) - 1))]
    if not isinstance(of.level, str):
        assert of.level is not None
        return [(x, of.level) for x in span]
    means = []
    for rate in rates:
        cells = [p.cell for p in comparison.design.placed if (p.setting, p.rate) == (setting, rate) and p.cell.done]
        means.append(estimate([c.figures[of.level] for c in cells if of.level in c.figures]).mean)
    return list(zip(span, means if len(rates) > 1 else means * 2, strict=True))


def _line(
    axis: "Axes", points: Sequence[tuple[float, Estimate]], look: Look, label: str, *, marker: bool = True
) -> None:
    if not points:
        return
    x, found = zip(*points, strict=True)
    axis.fill_between(x, [e.low for e in found], [e.high for e in found], color=look.color, alpha=0.14, linewidth=0)
    axis.plot(
        x,
        [e.mean for e in found],
        color=look.color,
        marker=look.marker if marker else None,
        markersize=5,
        linewidth=1.6,
        linestyle=look.linestyle,
        label=label,
    )


def _dot(axis: "Axes", points: Sequence[tuple[float, Estimate]], look: Look, label: str) -> None:
    for x, found in points:
        axis.errorbar(
            x,
            found.mean,
            yerr=found.half if found.n > 1 else None,
            color=look.color,
            marker=look.marker,
            markersize=6,
            capsize=3,
            linestyle="none",
            label=label,
        )


def _differences(comparison: Comparison, folder: Path) -> Drawing | None:
    tests = [test for test in comparison.tests() if test.paired.difference.n]
    if not tests:
        return None
    arms = [arm for arm in comparison.design.arms if arm != comparison.baseline]
    settings = comparison.design.settings
    wheres = list(
        dict.fromkeys(test.where for test in sorted(tests, key=lambda t: (isinstance(t.where, str), t.where)))
    )
    high = 0.9 + len(wheres) * (0.16 * len(arms) + 0.16)
    with _figure(max(7.4, 3.7 * len(settings)), max(2.2, high)) as figure:
        axes = figure.subplots(1, len(settings), squeeze=False, sharey=True)[0]
        for axis, setting in zip(axes, settings, strict=True):
            axis.axvline(0.0, color=GREY, linewidth=1, linestyle=DASHED)
            for test in (test for test in tests if test.setting == setting):
                found, look = test.paired.difference, looks(comparison.design.arms)[test.arm]
                within = (arms.index(test.arm) + 0.5) / len(arms) - 0.5
                axis.errorbar(
                    found.mean,
                    wheres.index(test.where) + 0.7 * within,
                    xerr=found.half if found.n > 1 else None,
                    color=look.color,
                    marker=look.marker,
                    markersize=5,
                    markerfacecolor=look.color if test.holds else "#ffffff",
                    linewidth=1.4,
                    label=test.arm,
                )
            axis.set_title(setting)
            axis.set_xlabel(
                f"difference to {comparison.baseline}" + (f" ({comparison.main.unit})" if comparison.main.unit else "")
            )
            axis.grid(axis="x")
            axis.grid(visible=False, axis="y")
        names = ["area" if isinstance(where, str) else f"noise {where:g}" for where in wheres]
        axes[0].set_yticks(range(len(wheres)), names)
        axes[0].set_ylim(len(wheres) - 0.5, -0.5)
        _legend(figure, axes, comparison)
        title = f"Paired differences to {comparison.baseline} in {comparison.main.name}"
        alt = (
            f"{title}: mean and 95 % interval; filled where Holm's corrected p is below 0.05. The table below has them."
        )
        return _saved(figure, folder, "differences", title, alt)


def _reward_and_kl(comparison: Comparison, folder: Path) -> Drawing | None:
    kl = comparison.kl
    measures = {of.key: of for of in comparison.measures()}
    reward = comparison.main if comparison.main.key in ("gold/reward", "gold/win_rate") else measures.get("gold/reward")
    if kl is None or reward is None:
        return None
    design, settings = comparison.design, comparison.design.settings
    with _figure(max(7.4, 3.7 * len(settings)), 3.8) as figure:
        axes = figure.subplots(1, len(settings), squeeze=False, sharey=True)[0]
        for axis, setting in zip(axes, settings, strict=True):
            rates = comparison.rates(setting, kl)
            for arm, look in looks(design.arms).items():
                points = []
                for rate in rates:
                    kls, rewards = (design.values(key, setting, arm, rate) for key in (kl, reward.key))
                    seeds = sorted(kls.keys() & rewards.keys())
                    away, gained = [kls[seed] for seed in seeds], [rewards[seed] for seed in seeds]
                    axis.scatter(away, gained, s=9, color=look.color, alpha=0.35, linewidth=0)
                    if seeds:
                        points.append((estimate(away).mean, estimate(gained).mean, rate))
                if points:
                    axis.plot(
                        [x for x, _, _ in points],
                        [y for _, y, _ in points],
                        color=look.color,
                        marker=look.marker,
                        markersize=5.5,
                        linewidth=1,
                        linestyle=look.linestyle,
                        label=arm,
                    )
                for x, y, rate in points if len(rates) <= LABELLED else points[-1:]:
                    if rate > rates[0]:
                        axis.annotate(f"{rate:g}", (x, y), (5, -9), textcoords="offset points", fontsize=7)
            axis.set_title(setting)
            axis.set_xlabel("KL to the start (nats)")
            axis.grid(axis="both")
        axes[0].set_ylabel(reward.name)
        if not _legend(figure, axes, comparison):
            return None
        title = f"{reward.name[:1].upper()}{reward.name[1:]} against KL"
        alt = (
            f"{title}: large marks are means over seeds, joined in the order of the noise rates, which stand beside "
            "them; small dots are single seeds. The tables have the numbers."
        )
        return _saved(figure, folder, "reward_and_kl", title, alt)


def _overoptimisation(comparison: Comparison, folder: Path) -> Drawing | None:
    design = comparison.design
    ways = {p.cell.run: way(p.cell.folder / EVENTS) for p in design.placed if "proxy/standardised" in p.cell.figures}
    pursuing = [place for place in design.placed if ways.get(place.cell.run)]
    if sum(map(len, ways.values())) < 2:
        return None
    columns = sorted({(place.setting, place.rate) for place in pursuing})
    with _figure(max(7.4, 3.7 * len(columns)), 5.4) as figure:
        axes = figure.subplots(2, len(columns), squeeze=False, sharex=True, sharey="row")
        for column, (setting, rate) in zip(axes.T, columns, strict=True):
            for curve, look in looks(list({place.curve for place in pursuing})).items():
                here = [p for p in pursuing if (p.setting, p.rate, p.curve) == (setting, rate, curve)]
                for line in _ways([[ways[p.cell.run] for p in here if p.arm == arm] for arm in {p.arm for p in here}]):
                    _line(column[0], [(kl, gold) for kl, gold, _ in line], look, curve)
                    _line(column[1], [(kl, proxy) for kl, _, proxy in line], look, curve)
            for axis in column:
                axis.axhline(0.0, color=GREY, linewidth=1, linestyle=DASHED)
                over_kl(axis)
                axis.grid(axis="both")
            column[0].set_xlabel("")
            column[0].set_title(f"noise {rate:g}" + (f", {setting}" if setting else ""), fontsize=8.5)
        axes[0, 0].set_ylabel("gold reward (sd)")
        axes[1, 0].set_ylabel("proxy reward (sd)")
        _legend(figure, axes.ravel(), comparison)
        title = "Gold and proxy reward against KL"
        alt = (
            f"{title}: mean over seeds and 95 % interval, in {UNIT}'s answers from their mean; "
            "from the start on, by the n of best-of-n, by optimiser steps, or by how hard each cell optimises."
        )
        return _saved(figure, folder, "overoptimisation", title, alt)


def _ways(arms: Sequence[Sequence[Mapping[int, Point]]]) -> Iterator[list[tuple[float, Estimate, Estimate]]]:
    """Lines of KL, mean gold and mean proxy: one an arm, of whose seeds the ways are; one of all that are points."""
    each = []
    for seeds in arms:
        points = [[START] * len(seeds), *([seed[place] for seed in seeds] for place in _shared(seeds))]
        each.append(
            [
                (estimate(kl).mean, estimate(gold), estimate(proxy))
                for kl, gold, proxy in (zip(*p, strict=True) for p in points)
            ]
        )
    if all(len(line) <= 2 for line in each):
        each = [sorted((point for line in each for point in line), key=lambda point: point[0])]
    return iter(each)


def _others(comparison: Comparison, folder: Path) -> Drawing | None:
    measures = [of for of in comparison.measures() if of.key != comparison.main.key]
    panels = [(of, setting) for of in measures for setting in comparison.design.settings]
    if not panels or len(comparison.design.rates) < 2:
        return None
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with _figure(3.0 * columns, 2.4 * rows + 0.4) as figure:
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, (of, setting) in zip(axes, panels, strict=False):
            _against_rate(comparison, of, setting, axis)
            axis.set_title(f"{of.key}, {setting}" if setting else of.key)
            axis.set_ylabel(of.unit)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        _legend(figure, axes, comparison)
        title = "The other figures against the noise rate"
        alt = f"{title}: mean over seeds and 95 % interval of {', '.join(of.key for of in measures)}; tables below."
        return _saved(figure, folder, "others", title, alt)


def _training(comparison: Comparison, folder: Path) -> Drawing | None:
    curves = {p.cell.run: _curves(p.cell.folder / EVENTS) for p in comparison.design.placed if p.cell.done}
    recorded = {name for runs in curves.values() for name in runs}
    shown = [(panel, name) for panel in PANELS if (name := _shown(panel, recorded)) is not None]
    columns = [
        (setting, rate)
        for setting in comparison.design.settings
        for rate in comparison.design.rates
        if any(p.rate == rate and p.setting == setting for p in comparison.design.placed)
    ]
    if not shown:
        return None
    with _figure(max(6.4, 2.3 * len(columns)), 1.8 * len(shown) + 0.6) as figure:
        axes = figure.subplots(len(shown), len(columns), squeeze=False, sharex=True, sharey="row")
        for row, (panel, name) in zip(axes, shown, strict=True):
            for axis, (setting, rate) in zip(row, columns, strict=True):
                for arm, look in looks(comparison.design.arms).items():
                    cells = [p.cell for p in comparison.design.at(setting, arm, rate) if p.cell.done]
                    series = [curves[cell.run][name] for cell in cells if name in curves[cell.run]]
                    _line(axis, _mean_curve(series), look, arm, marker=name not in (panel.train,))
            row[0].set_ylabel(panel.unit)
            row[0].set_title(name, fontsize=8.5)
        for axis, (setting, rate) in zip(axes[0], columns, strict=True):
            axis.set_title(f"noise {rate:g}" + (f", {setting}" if setting else ""), loc="right", fontsize=8.5)
        for axis in axes[-1]:
            axis.set_xlabel("optimiser step")
        if not _legend(figure, axes.ravel(), comparison):
            return None
        title = "Training curves"
        alt = f"{title}: mean over seeds and 95 % interval of {', '.join(name for _, name in shown)}, by noise rate."
        return _saved(figure, folder, "training", title, alt)


def _curves(events: Path) -> dict[str, dict[int, float]]:
    curves: dict[str, dict[int, float]] = {}
    for event in read(events) if events.exists() else ():
        for name, value in event.metrics.items():
            curves.setdefault(name, {})[event.step] = value
    return curves


def _shown(panel: Panel, recorded: set[str]) -> str | None:
    return next((name for name in (*panel.evaluated, panel.train) if name in recorded), None)


def _mean_curve(series: Sequence[Mapping[int, float]]) -> list[tuple[float, Estimate]]:
    return [(step, estimate([one[step] for one in series])) for step in _shared(series)]


def _shared(series: Sequence[Mapping[int, Any]]) -> list[int]:
    """The steps that all of them have."""
    return sorted(set.intersection(*(set(one) for one in series))) if series else []


def _legend(figure: "Figure", axes: Iterable["Axes"], comparison: Comparison) -> bool:
    """One legend for all panels, above them; False where nothing was drawn in any."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if not found:
        return False
    names = sorted(found, key=lambda label: (label not in comparison.design.arms, label))
    abreast = int(LETTERS_AN_INCH * figure.get_figwidth() / (max(map(len, names)) + 8))
    figure.legend([found[name] for name in names], names, loc="outside upper left", ncols=max(1, abreast))
    return True


@contextmanager
def _figure(width: float, height: float) -> Iterator["Figure"]:
    """An empty figure in the house style, in inches; text in its SVG stays text, and a dollar in it a dollar."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    plain = {"svg.fonttype": "none", "text.parse_math": False}
    with mpl.rc_context(STYLE | plain | {"figure.facecolor": "#ffffff", "axes.titlecolor": INK}):
        yield Figure(figsize=(width, height), layout="constrained")


def _saved(figure: "Figure", folder: Path, name: str, title: str, alt: str) -> Drawing:
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    figure.savefig(png, dpi=150)
    figure.savefig(svg, metadata={"Date": None})
    return Drawing(name, title, alt, png, svg)
