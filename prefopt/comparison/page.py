"""A comparison as one HTML page that needs nothing else: no request, no script, light and dark."""

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from prefopt.comparison.analysis import Comparison
from prefopt.comparison.drawing import PALETTE, Drawing, looks
from prefopt.comparison.report import Report
from prefopt.evaluation.figures import INK, STYLE

ON_DARK = ("#4aa8e8", "#ff8a4c", "#2fc79a", "#e59cc6", "#f2b93b", "#7fcbf2", "#a3a9b0")
"""The palette where the page is dark."""
SHAPES = {
    "o": '<circle cx="6" cy="6" r="4"/>',
    "s": '<rect x="2" y="2" width="8" height="8"/>',
    "D": '<path d="M6 1 11 6 6 11 1 6z"/>',
    "^": '<path d="M6 1.5 11 10.5H1z"/>',
    "v": '<path d="M6 10.5 1 1.5h10z"/>',
    "P": '<path d="M4.5 1h3v3.5H11v3H7.5V11h-3V7.5H1v-3h3.5z"/>',
    "X": '<path d="M3 1 6 4 9 1 11 3 8 6 11 9 9 11 6 8 3 11 1 9 4 6 1 3z"/>',
}


def page(report: Report, comparison: Comparison, drawings: Sequence[Drawing]) -> str:
    """The whole report as a page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        report=report,
        drawings={drawing.name: drawing for drawing in drawings},
        svg={drawing.name: inline(drawing) for drawing in drawings},
        marks=marks(comparison.design.arms),
        baseline=comparison.baseline,
        light=PALETTE,
        dark=ON_DARK,
    )


def marks(arms: Sequence[str]) -> dict[str, str]:
    """Each arm's marker in its colour, to stand beside its name."""
    return {
        arm: (
            f'<svg class="mark" viewBox="0 0 12 12" aria-hidden="true" '
            f'style="fill: var(--series-{PALETTE.index(look.color)})">{SHAPES[look.marker]}</svg>'
        )
        for arm, look in looks(arms).items()
    }


def inline(drawing: Drawing) -> str:
    """A drawing's SVG as part of a page: colours of the page, ids of its own, a name for those who cannot see it."""
    text = drawing.svg.read_text(encoding="utf-8")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for number, colour in enumerate(PALETTE):
        text = text.replace(colour, f"var(--series-{number})")
    for colour, variable in (
        (INK, "currentColor"),
        ("#ffffff", "var(--paper)"),
        (STYLE["grid.color"], "var(--line)"),
        (STYLE["axes.edgecolor"], "var(--faint)"),
    ):
        text = text.replace(colour, variable)
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{drawing.name}-", text)
    label = f'<title id="{drawing.name}-title">{escape(drawing.alt)}</title>'
    points = re.search(r'width="([\d.]+)pt"', text)
    least = f'style="min-width: {float(points[1]):.0f}px"' if points else ""
    named = text.replace("<svg ", f'<svg role="img" aria-labelledby="{drawing.name}-title" {least} ', 1)
    return named.replace(">", f">{label}", 1)
