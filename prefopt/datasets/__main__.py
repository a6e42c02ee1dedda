"""Look a file of preferences over: `python -m prefopt.datasets check PATH`."""

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from rich.markup import escape

from prefopt.errors import PrefoptError, reports_errors

if TYPE_CHECKING:
    from rich.table import Table

    from prefopt.datasets.corpus import Comparison, Text
    from prefopt.datasets.rows import Problem, Row

PLACES = 3  # shown of each kind of problem


@reports_errors
def main(arguments: list[str] | None = None) -> None:
    """Prints what was found and every kind of problem; the exit code is 0 where all rows are sound, else 2."""
    parser = argparse.ArgumentParser(prog="python -m prefopt.datasets", description=__doc__)
    check = parser.add_subparsers(required=True).add_parser(
        "check", help="validate preferences and say what to mend", description=_check.__doc__
    )
    check.add_argument("path", help="a .jsonl(.gz), .json or .parquet file, or a folder of them or of save_to_disk")
    check.add_argument(
        "--implicit-prompt", action="store_true", help="the prompt is the shared beginning of chosen and rejected"
    )
    check.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="OURS=THEIRS",
        help="the file's name of a column, as prompt=question (again for each column)",
    )
    options = parser.parse_args(arguments)
    _check(options.path, options.implicit_prompt, dict(column.partition("=")[::2] for column in options.column))


def _check(path: str, implicit_prompt: bool, columns: dict[str, str]) -> None:
    """Read all rows of all splits as a run would, and show what they hold and what is wrong with them."""
    from rich.console import Console

    from prefopt.datasets.reader import read
    from prefopt.datasets.rows import COLUMNS, comparisons

    for ours in columns:
        if ours not in COLUMNS:
            raise PrefoptError(f"--column {ours}=...: no such column", f"ours are {', '.join(COLUMNS)}")
    console = Console()
    problems: dict[str, list[Problem]] = {}
    seen: dict[str, str] = {}

    def report(problem: "Problem") -> None:
        problems.setdefault(problem.reason, []).append(problem)

    for split, rows in read(path, report, only="the file").items():
        read_rows = list(rows)
        good = list(comparisons(read_rows, columns=columns, implicit_prompt=implicit_prompt, report=report, seen=seen))
        console.print(_summary(split, read_rows, good))
    if not seen and not problems:
        raise PrefoptError(f"{path}: no rows", "write one preference a line: prompt, chosen, rejected")
    if problems:
        print(_problems(problems), flush=True)
        counts = ", ".join(f"{reason} {len(found)}" for reason, found in problems.items())
        raise PrefoptError(f"{path} is not sound: {counts}", "see the first places of each kind above")
    console.print("All rows are sound.")


def _summary(split: str, rows: "list[Row]", good: "list[Comparison]") -> "Table":
    from rich.table import Table

    from prefopt.datasets.dialogue import plain

    table = Table("what", "found", title=split, title_justify="left")
    table.add_row("rows", f"{len(rows)}, {len(good)} of them sound")
    columns = Counter(column for _, row in rows for column, value in row.items() if value is not None)
    table.add_row("columns (rows)", escape(", ".join(f"{name} ({count})" for name, count in columns.items())) or "none")
    if good:
        responses = [response for row in good for response in row.responses]
        forms = {"text" if isinstance(row.prompt, str) else "messages" for row in good}
        table.add_row("form", " and ".join(sorted(forms)))
        table.add_row("different prompts", str(len({plain(row.prompt) for row in good})))
        table.add_row("characters a prompt", _spread([len(plain(row.prompt)) for row in good]))
        table.add_row("characters a response", _spread([len(plain(response)) for response in responses]))
        several = sum(any(_turns(response) > 1 for response in row.responses) for row in good)
        if several:
            table.add_row("rows whose sides part before the last turn", str(several))
        for fact in ("annotator", "group"):
            names = {getattr(row, fact) for row in good} - {None}
            if names:
                table.add_row(f"{fact}s", str(len(names)))
        scored = [(row.scores[row.label], row.scores[1 - row.label]) for row in good if row.scores]
        if scored:
            table.add_row("rows with scores", str(len(scored)))
            table.add_row("  chosen not above rejected", str(sum(chosen <= rejected for chosen, rejected in scored)))
    return table


def _turns(response: "Text") -> int:
    from prefopt.datasets.rows import ASSISTANT

    return 1 + response.count(ASSISTANT) if isinstance(response, str) else len(response)


def _spread(lengths: list[int]) -> str:
    ordered = sorted(lengths)
    return f"median {ordered[len(ordered) // 2]}, 95 % {ordered[len(ordered) * 95 // 100]}, longest {ordered[-1]}"


def _problems(problems: "dict[str, list[Problem]]") -> str:
    """Every kind with its first places, in lines that no table folds, so that file:line can be followed."""
    lines = []
    for reason, found in sorted(problems.items(), key=lambda item: -len(item[1])):
        lines += [f"{reason}: {len(found)}", *(f"  {problem.what}" for problem in found[:PLACES])]
        lines += ["  ..."] * (len(found) > PLACES) + [f"  mend: {found[0].mend}"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
