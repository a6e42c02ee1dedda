"""An audit on the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from prefopt.audit.estimate import ASSUMES
from prefopt.audit.findings import Findings
from prefopt.audit.saying import verdict, warnings

LISTED = 3


def show(name: str, findings: Findings, following: Sequence[str]) -> None:
    """The estimates, the verdict and what to do next, on standard error."""
    table = Table(title=f"Flip rate of {name}, {len(findings.margins)} pairs", title_justify="left", box=None)
    for column in ("estimator", "rate", "90 % interval", "assumes"):
        table.add_column(column)
    for estimator, found in findings.estimates.items():
        rate = f"{found.rate:.3f}" if found.sound else "–"
        table.add_row(estimator, rate, f"{found.low:.3f} to {found.high:.3f}", ASSUMES[estimator])
    console = Console(stderr=True)
    console.print(table)
    for part in sorted(findings.parts, key=lambda part: -part.estimate.low)[:LISTED]:
        if part.estimate.low > findings.headline.high:
            console.print(f"above the rest: {part.by} {part.name}: {part.estimate}", style="yellow", markup=False)
    console.print(verdict(findings), style="bold", markup=False, highlight=False, soft_wrap=True)
    for line in warnings(findings)[:-1]:
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    for line in following:
        console.print(f"next    {line}", markup=False, highlight=False, soft_wrap=True)
