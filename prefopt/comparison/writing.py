"""A comparison as text: Markdown, CSV in long form, and what the terminal shows."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from prefopt.comparison.analysis import Comparison
from prefopt.comparison.design import Design
from prefopt.comparison.drawing import Drawing
from prefopt.comparison.report import Report
from prefopt.comparison.tables import Entry, Table

STYLES = {"best": "bold", "better": "green", "worse": "red", "lacking": "yellow"}


def markdown(report: Report, drawings: Sequence[Drawing], folder: Path) -> str:
    """The whole report; figures are linked relative to `folder`."""
    return "\n".join(_markdown(report, {drawing.name: drawing for drawing in drawings}, folder)) + "\n"


def _markdown(report: Report, drawings: dict[str, Drawing], folder: Path) -> Iterator[str]:
    yield from (f"# {report.title}", "", report.about, "")
    yield from (f"- {line}" for line in report.says)
    yield from (f"- **Note:** {line}" for line in report.warnings)
    for section in report.sections:
        yield from ("", f"## {section.heading}", "")
        if section.text:
            yield from (section.text, "")
        for drawing in (drawings[name] for name in section.drawings if name in drawings):
            yield from (f"![{drawing.alt}]({drawing.png.relative_to(folder).as_posix()})", "")
        for table in section.tables:
            yield from (f"### {table.title}", "")
            yield "| " + " | ".join(table.header) + " |"
            yield "|" + "---|" * len(table.header)
            yield from ("| " + " | ".join(map(_cell, row)) + " |" for row in table.rows)
            yield from ("", table.caption, "")


def _cell(entry: Entry) -> str:
    text = entry.text + (f" ({entry.under})" if entry.under else "")
    text = text.replace("|", "\\|")
    return f"**{text}**" if entry.tone == "best" else text


def long_form(design: Design) -> str:
    """CSV: a line for each cell and figure; a cell that has no figures has one line, with its state."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("run", "state", "setting", "method", "noise.rate", "seed", "figure", "value"))
    for place in design.placed:
        about = (place.cell.run, place.cell.state, place.setting, place.arm, repr(place.rate), place.seed)
        lines.writerows((*about, figure, value) for figure, value in sorted(place.cell.figures.items()))
        if not place.cell.figures:
            lines.writerow((*about, "", ""))
    return text.getvalue()


def show(report: Report, comparison: Comparison, console: Console) -> None:
    """The main tables, for a person at the terminal."""
    console.print(Text(report.title, style="bold"))
    console.print(report.about, style="dim", markup=False, highlight=False)
    for line in report.says:
        console.print(f"- {line}", markup=False, highlight=False)
    for line in report.warnings:
        console.print(f"! {line}", style="yellow", markup=False, highlight=False)
    for table in (table for section in report.sections if section.short for table in section.tables):
        console.print()
        console.print(Text(table.title, style="bold"))
        console.print(_shown(table, comparison))


def _shown(table: Table, comparison: Comparison) -> RichTable:
    shown = RichTable(box=None, pad_edge=False)
    for place, column in enumerate(table.header):
        shown.add_column(column, justify="left" if place == 0 else "right")
    for row in table.rows:
        texts = []
        for place, entry in enumerate(row):
            text = Text(entry.text, style=STYLES.get(entry.tone, ""))
            if entry.under:
                text.append(f"\n{entry.under}", style="yellow" if entry.tone == "lacking" else "dim")
            if table.arms and place == 0 and entry.text == comparison.baseline:
                text.append("\nbaseline", style="dim")
            texts.append(text)
        shown.add_row(*texts)
    return shown
