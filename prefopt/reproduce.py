"""`python -m prefopt.reproduce claim=rdpo`: a paper's claim, what was measured, and whether it held."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

from prefopt.claims.claim import Claim, Experiment, read
from prefopt.claims.statistics import Cell, interval
from prefopt.errors import PrefoptError, reports_errors
from prefopt.progress import bar
from prefopt.store import CHECKOUT, home
from prefopt.tracking.telemetry import silence

CLAIMS = CHECKOUT / "sweeps" / "claims"


@reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 where every claim held, 1 where one did not."""
    silence()
    parser = argparse.ArgumentParser(prog="python -m prefopt.reproduce", description=__doc__)
    parser.add_argument("claim", help="claim=NAME, a file of sweeps/claims; claim=all for every one")
    parser.add_argument("--seeds", type=int, help="seeds of every experiment, in the place of the file's")
    parser.add_argument("--only", help="one experiment of the claim")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default 1)")
    given = parser.parse_args(arguments)
    name = given.claim.removeprefix("claim=")
    paths = sorted(CLAIMS.glob("*.yaml")) if name == "all" else [CLAIMS / f"{name}.yaml"]
    held = [reproduced(read(path), seeds=given.seeds, only=given.only, jobs=given.jobs) for path in paths]
    return 0 if all(held) else 1


def reproduced(claim: Claim, *, seeds: int | None, only: str | None, jobs: int) -> bool:
    """Run what is missing of a claim, print its table, write it down, and say whether it held."""
    from dataclasses import replace

    from rich.console import Console
    from rich.table import Table

    experiments = [e for e in claim.experiments if only in (None, e.name)]
    if not experiments:
        names = ", ".join(e.name for e in claim.experiments)
        raise PrefoptError(f"claim={claim.name} has no experiment {only}", f"choose one of {names}")
    table = Table(title=f"{claim.name}: {claim.claim}\n{claim.paper}", title_justify="left")
    for column in ("experiment", "statistic", "measured", "90 % interval", "criterion", "verdict"):
        table.add_column(column)
    lines = []
    for experiment in experiments:
        experiment = replace(experiment, seeds=seeds or experiment.seeds)
        cells = list(run_all(claim.name, experiment, jobs))
        for test in experiment.tests:
            value = test.statistic(cells)
            low, high = (float("nan"),) * 2 if test.extreme else interval(test.statistic, cells)
            verdict = "-" if not test.gated else "holds" if test.holds(value) else "does not hold"
            lines.append(
                {
                    "experiment": experiment.name,
                    "statistic": test.says,
                    "measured": value,
                    "interval": None if test.extreme else [low, high],
                    "criterion": test.criterion,
                    "verdict": verdict,
                    "seeds": experiment.seeds,
                }
            )
            style = {"holds": "green", "does not hold": "red"}.get(verdict, "dim")
            table.add_row(
                experiment.name,
                test.says,
                f"{value:.3f}",
                "-" if test.extreme else f"{low:.3f} .. {high:.3f}",
                test.criterion,
                f"[{style}]{verdict}",
            )
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    path = home() / "claims" / f"{'.'.join([claim.name, *([only] if only else [])])}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"claim": claim.claim, "paper": claim.paper, "tests": lines}, indent=2))
    print(path)
    return all(line["verdict"] != "does not hold" for line in lines)


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
