"""What there is to choose from: `python -m prefopt.methods`; with `plot rdpo`, why a method resists wrong labels."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prefopt.errors import PrefoptError, reports_errors
from prefopt.methods.catalogue import Entry, entries, parts
from prefopt.store import CHECKOUT

if TYPE_CHECKING:
    from prefopt.methods.influence import Curve

README = CHECKOUT / "README.md"


@reports_errors
def main(arguments: Sequence[str] | None = None) -> None:
    """The last line of `plot` on standard output is the path of the figure."""
    parser = argparse.ArgumentParser(prog="python -m prefopt.methods", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("list", help="every method, objective and robustifier (what is done without a command)")
    plot = commands.add_parser("plot", help="draw the influence weight, -d loss / d margin, of methods")
    plot.add_argument("methods", nargs="+", metavar="METHOD", help="their names, or all")
    plot.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="as noise.assumed=0.3; again for more"
    )
    commands.add_parser("readme", help="bring the table of methods in README.md up to date")
    given = parser.parse_args(arguments)
    if given.command == "plot":
        _plot(given.methods, given.set)
    elif given.command == "readme":
        README.write_text(with_table(README.read_text()))
    else:
        _list()


def _list() -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console = Console(width=None if console.is_terminal else 160)
    found = entries()
    for family in dict.fromkeys(entry.family for entry in found):
        table = Table(title=f"[bold]{family}", title_justify="left", box=None, pad_edge=False)
        table.add_column("method=", style="bold", no_wrap=True)
        for column in ("name", "paper", "eats", "when to choose it"):
            table.add_column(column)
        for entry in (entry for entry in found if entry.family == family):
            table.add_row(entry.method, entry.name, _cited(entry), entry.eats, entry.when)
        console.print(table, "")
    for kind in ("objective", "robust"):
        title = f"[bold]method/{kind}=[/bold]  a pairwise method is an objective x a robustifier"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_header=False)
        for name, said in parts(kind).items():
            table.add_row(f"[bold]{name}", said)
        console.print(table, "")
    console.print("[dim]python -m prefopt.methods plot lcpo rdpo   draws how much a pair counts, by its margin")


def _cited(entry: Entry) -> str:
    return entry.paper + (f", {entry.id}" if entry.id else "")


def with_table(readme: str) -> str:
    """The README with the table of methods between its markers as it should be."""
    lines = ["| `method=` | what | paper | eats | when |", "|---|---|---|---|---|"]
    lines += [f"| `{e.method}` | {e.name} | {_cited(e)} | {e.eats} | {e.when} |" for e in entries()]
    marked = "<!-- methods -->\n" + "\n".join(lines) + "\n<!-- /methods -->"
    return re.sub(r"<!-- methods -->.*?<!-- /methods -->", lambda _: marked, readme, flags=re.DOTALL)


def _plot(names: Sequence[str], overrides: Sequence[str]) -> None:
    from prefopt.evaluation.weights import weights
    from prefopt.progress import say
    from prefopt.store import home

    called = "-".join(names)
    names = [entry.method for entry in entries() if entry.family == "pairwise"] if "all" in names else names
    curves: dict[str, Curve] = {}
    for name in names:
        try:
            curves[name] = _curve(f"method={name}", *overrides)
        except PrefoptError as error:
            if len(names) == 1:
                raise
            say(f"{name} is left out: {error.what}", "dim")
    if not curves:
        raise PrefoptError("none of these methods has an influence weight", "see python -m prefopt.methods")
    plain = {name: _curve(f"method={name}", "method/robust=none", *overrides) for name in curves if _robust(name)}
    stem: Path = home() / "figures" / f"influence-{called}"
    lines, beside = ({name: (c.margin, c.weight) for name, c in some.items()} for some in (curves, plain))
    for path in weights(lines, beside, stem):
        print(path)


def _curve(*overrides: str) -> "Curve":
    from prefopt.config import composed, made, plain
    from prefopt.methods.influence import influence

    return influence(made(plain(composed(overrides))["method"]))


def _robust(name: str) -> bool:
    """Whether the method has a robustifier that does something."""
    from prefopt.config import composed

    return "robust.none" not in composed([f"method={name}"]).method.robust._target_


if __name__ == "__main__":
    main()
