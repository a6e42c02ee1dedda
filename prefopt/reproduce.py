"""`python -m prefopt.reproduce claim=rdpo`: a paper's claim, what was measured, and whether it held."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from typing import Any

from prefopt.claims.claim import Claim, Experiment, Test, read
from prefopt.claims.statistics import Cell, interval
from prefopt.errors import PrefoptError, reports_errors
from prefopt.progress import bar
from prefopt.store import CHECKOUT, home
from prefopt.tracking.telemetry import silence

CLAIMS = CHECKOUT / "sweeps" / "claims"
HOLDS, FAILS = "holds", "does not hold"


@reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 where every claim held, 1 where one did not."""
    silence()
    parser = argparse.ArgumentParser(
        prog="python -m prefopt.reproduce",
        description=__doc__,
        epilog=f"Claims: {', '.join(path.stem for path in sorted(CLAIMS.glob('*.yaml')))}.",
    )
    parser.add_argument("claim", help="claim=NAME, a file of sweeps/claims; claim=all for every one")
    parser.add_argument("family", nargs="?", help="family=NAME: of these, the claims of one family of methods")
    parser.add_argument("--seeds", type=int, help="seeds of every experiment, in the place of the file's")
    parser.add_argument("--only", help="one experiment of the claim")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default 1)")
    given = parser.parse_args(arguments)
    claims = chosen(given.claim.removeprefix("claim="), given.family and given.family.removeprefix("family="))
    measured = {claim.name: reproduced(claim, seeds=given.seeds, only=given.only, jobs=given.jobs) for claim in claims}
    if len(claims) > 1:
        summarise(claims, measured)
    return 0 if all(line.verdict != FAILS for lines in measured.values() for line in lines) else 1


def chosen(name: str, family: str | None) -> list[Claim]:
    """The claims of this name, or of this family.

    Raises PrefoptError where there are none.
    """
    claims = [read(path) for path in (sorted(CLAIMS.glob("*.yaml")) if name == "all" else [CLAIMS / f"{name}.yaml"])]
    found = [claim for claim in claims if family is None or family_of(claim) == family]
    if not found:
        families = sorted({family_of(claim) for claim in claims})
        raise PrefoptError(
            f"family={family}: claim={name} has no claim of that family", f"choose one of {', '.join(families)}"
        )
    return found


def family_of(claim: Claim) -> str:
    """The family that a claim says, or that of the method which it is named after."""
    if claim.family is not None:
        return claim.family
    import yaml

    from prefopt.config import CONF, family

    return family(yaml.safe_load((CONF / "method" / f"{claim.name}.yaml").read_text())["_target_"])


@dataclass(frozen=True)
class Line:
    """One test of a claim, carried out. interval: of 90 % over seeds; None for an extreme of them."""

    experiment: str
    statistic: str
    measured: float
    interval: tuple[float, float] | None
    criterion: str
    verdict: str
    seeds: int

    @property
    def shown(self) -> tuple[str, str, str]:
        """What was measured, its interval and the verdict, in colour."""
        bounds = "-" if self.interval is None else "{:.3f} .. {:.3f}".format(*self.interval)
        style = {HOLDS: "green", FAILS: "red"}.get(self.verdict, "dim")
        return f"{self.measured:.3f}", bounds, f"[{style}]{self.verdict}"


def reproduced(claim: Claim, *, seeds: int | None, only: str | None, jobs: int) -> list[Line]:
    """Run what is missing of a claim, print its table, and write it down.

    Raises PrefoptError where the claim has no experiment of that name.
    """
    experiments = [e for e in claim.experiments if only in (None, e.name)]
    if not experiments:
        names = ", ".join(e.name for e in claim.experiments)
        raise PrefoptError(f"claim={claim.name} has no experiment {only}", f"choose one of {names}")
    lines = []
    for experiment in experiments:
        experiment = replace(experiment, seeds=seeds or experiment.seeds)
        cells = list(run_all(claim.name, experiment, jobs))
        lines += [tested(experiment, test, cells) for test in experiment.tests]
    rows = [(line.experiment, line.statistic, *line.shown[:2], line.criterion, line.shown[2]) for line in lines]
    show(
        f"{claim.name}: {claim.claim}\n{claim.paper}",
        ("experiment", "statistic", "measured", "90 % interval", "criterion", "verdict"),
        rows,
    )
    path = home() / "claims" / f"{'.'.join([claim.name, *([only] if only else [])])}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {"claim": claim.claim, "paper": claim.paper, "tests": [asdict(line) for line in lines]}
    path.write_text(json.dumps(said, indent=2))
    print(path)
    return lines


def tested(experiment: Experiment, test: Test, cells: Sequence[Cell]) -> Line:
    value = test.statistic(cells)
    return Line(
        experiment=experiment.name,
        statistic=test.says,
        measured=value,
        interval=None if test.extreme else interval(test.statistic, cells),
        criterion=test.criterion,
        verdict="-" if not test.gated else HOLDS if test.holds(value) else FAILS,
        seeds=experiment.seeds,
    )


def summarise(claims: Sequence[Claim], measured: Mapping[str, Sequence[Line]]) -> None:
    """A line a claim: what it rests on first, how many of its criteria hold, and the first that does not."""
    rows = []
    for claim in claims:
        gated = [line for line in measured[claim.name] if line.verdict != "-"]
        failed = [line for line in gated if line.verdict == FAILS]
        verdict = f"[red]{FAILS}" if failed else f"[green]{HOLDS}" if gated else "[dim]-"
        told = next(iter(failed or gated), None)
        rest = (told.statistic, *told.shown[:2], told.criterion) if told else ("no criterion", "", "", "")
        rows.append((claim.name, *rest, f"{len(gated) - len(failed)} of {len(gated)}", verdict))
    show(
        f"{len(claims)} claims; of each the first criterion, or the first that does not hold",
        ("claim", "statistic", "measured", "90 % interval", "criterion", "criteria held", "verdict"),
        rows,
    )


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in header:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def run_all(claim: str, experiment: Experiment, jobs: int) -> Iterator[Cell]:
    """Every cell of an experiment: found in the store, or run."""
    todo = experiment.cells()
    with bar(f"{claim}: {experiment.name}", len(todo)) as update:
        if jobs == 1:
            for arm, seed, at, overrides in todo:
                yield Cell(arm, seed, at, figures(overrides))
                update(1)
            return
        with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_share_cores, initargs=(jobs,)) as pool:
            running = {pool.submit(figures, overrides): (arm, seed, at) for arm, seed, at, overrides in todo}
            for done in as_completed(running):
                arm, seed, at = running[done]
                yield Cell(arm, seed, at, done.result())
                update(1)


def figures(overrides: Sequence[str]) -> dict[str, Any]:
    """The figures of the run that these overrides describe."""
    from prefopt.config import composed
    from prefopt.run import run

    stored = run(composed([*overrides, "tracking=none"]), wait=True)
    results: dict[str, Any] = json.loads(stored.results.read_text())
    return results["figures"]


def _share_cores(jobs: int) -> None:
    import os

    import torch

    silence()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))


if __name__ == "__main__":
    sys.exit(main())
