"""`python -m prefopt.compare sweep=noise_grid`: the table, the tests and the figures of many runs, on one page."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from prefopt.errors import reports_errors
from prefopt.tracking.telemetry import silence


@reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """The tables on the terminal, the rest in a folder; the last line on standard output is the path of the page."""
    silence()
    parser = argparse.ArgumentParser(prog="python -m prefopt.compare", description=__doc__)
    parser.add_argument(
        "which",
        nargs="+",
        metavar="KEY=VALUE[,VALUE...]",
        help="sweep=NAME, experiment=NAME, or any key of the runs' configs: method=dpo,rdpo noise.rate=0,0.2",
    )
    parser.add_argument("--baseline", metavar="METHOD", help="the method to test against (default dpo, else the first)")
    parser.add_argument("--figure", help="the figure in the first place, as gold/reward")
    parser.add_argument("--allow", metavar="KEY", action="append", default=[], help="average over differences in KEY")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: the sweep's folder)")
    given = parser.parse_args(arguments)
    page = compared(given.which, given.baseline, given.figure, given.allow, given.out)
    print(page)
    return 0


def compared(
    which: Sequence[str], baseline: str | None, figure: str | None, allowed: Sequence[str], out: Path | None
) -> Path:
    """Compare, show, write everything down, and give it to the sweep's MLflow run; the page."""
    from rich.console import Console

    from prefopt.comparison.analysis import Comparison
    from prefopt.comparison.cells import Question, collected
    from prefopt.comparison.design import Design
    from prefopt.comparison.drawing import drawn
    from prefopt.comparison.page import page
    from prefopt.comparison.report import report
    from prefopt.comparison.writing import long_form, markdown, show
    from prefopt.files import replace_text

    question = Question.read(which, allowed)
    cells, swept, notes = collected(question)
    design = Design.of(cells, swept | question.told_apart, question.allowed)
    comparison = Comparison(design, figure=figure, baseline=baseline)
    folder = out or question.folder
    drawings = drawn(comparison, folder / "figures")
    said = report(comparison, question, notes=notes, drawings=[drawing.name for drawing in drawings])
    texts = {
        "comparison.md": markdown(said, drawings, folder),
        "comparison.csv": long_form(design),
        "comparison.html": page(said, comparison, drawings),
    }
    for name, text in texts.items():
        replace_text(folder / name, text)
    console = Console(width=None if sys.stdout.isatty() else 160)
    show(said, comparison, console)
    console.print()
    if question.whole is not None:
        track(question.whole, folder)
    return folder / "comparison.html"


def track(sweep: Path, folder: Path) -> None:
    """Let the sweep's MLflow run have the comparison, now where that run is known."""
    from prefopt.progress import say
    from prefopt.store import home
    from prefopt.tracking.record import RECORD, Receipt
    from prefopt.tracking.sweep import attach
    from prefopt.tracking.sync import deliver

    if not (sweep / RECORD).exists():
        return
    attach(sweep, [folder])
    receipt = Receipt.load(sweep)
    if receipt is None:
        return
    if trouble := deliver([sweep], home(), receipt.uri)[sweep]:
        say(
            f"MLflow does not have this comparison: {trouble}; send it by python -m prefopt.track sync {sweep}",
            "yellow",
        )


if __name__ == "__main__":
    sys.exit(main())
