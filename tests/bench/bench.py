"""How fast it is, against the targets: `make bench`.

Every part runs in a fresh process of one thread, two at a time, and counts CPU seconds, so that neighbours matter
little; arms that are compared take turns. Writes results.json, table.md and growth.png to the output folder. Fails
where a part failed or where two arms that are compared did not compute the same.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from surroundings import half, load, surroundings

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}


class Part(NamedTuple):
    """A module of this folder, and what its `measured` is given."""

    module: str
    arguments: dict[str, Any]


PARTS = {
    "throughput m": Part("throughput", {"size": "m"}),
    "throughput s": Part("throughput", {"size": "s"}),
    "stack": Part("stack", {}),
    "throughput xs": Part("throughput", {"size": "xs"}),
    "memory": Part("memory", {"size": "s", "batch": 8, "precisions": ["bf16-mixed" if half() else "32-true"]}),
    "growth": Part("growth", {}),
    "cells": Part("cells", {}),
    "orchestration": Part("orchestration", {}),
    "startup": Part("startup", {"stages": ["--help", "list", "configuration error"]}),
}
"""The longest first."""
QUICK = {"throughput xs": Part("throughput", {"size": "xs", "steps": 6}), "growth": Part("growth", {"points": 2})}


def carried_out(part: Part) -> dict[str, Any]:
    """What the part measured, in a home of its own; its traceback as `error` where it failed."""
    from prefopt.tracking.telemetry import silence

    silence()
    with tempfile.TemporaryDirectory() as home:
        os.environ["PREFOPT_HOME"] = home
        try:
            found: dict[str, Any] = import_module(part.module).measured(**part.arguments)
        except Exception:
            return {"error": traceback.format_exc()}
    return found


def measured(parts: dict[str, Part], workers: int) -> dict[str, Any]:
    """What each part found, by name."""
    from rich.console import Console
    from rich.progress import Progress

    os.environ |= ENVIRONMENT
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool,
        Progress(console=Console(stderr=True)) as progress,
    ):
        task = progress.add_task("bench", total=len(parts))
        running = {name: pool.submit(carried_out, part) for name, part in parts.items()}
        for future in running.values():
            future.add_done_callback(lambda _: progress.advance(task))
        return {name: future.result() for name, future in running.items()}


def carry_out(parts: dict[str, Part], out: Path, rows: Callable[[dict[str, Any]], list[Any]], workers: int) -> int:
    """Measure, write and show it all; the exit code."""
    import report

    out.mkdir(parents=True, exist_ok=True)
    before = load()
    found = measured({name: part for name, part in parts.items() if find_spec(part.module)}, workers)
    results = {"surroundings": surroundings(), "load": {"before": before, "after": load()}, "parts": found}
    (out / "results.json").write_text(json.dumps(results, indent=1))
    if "error" not in found.get("growth", {"error": ""}):
        from growth import draw

        draw(found["growth"], out)
    made = rows(found)
    (out / "table.md").write_text(report.markdown(made))
    report.show(made, results["load"])
    troubles = report.troubles(found)
    for trouble in troubles:
        print(trouble, file=sys.stderr)
    return int(bool(troubles))


def main() -> int:
    import report

    from prefopt.store import home

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the output folder; bench/ in the home")
    parser.add_argument("--quick", action="store_true", help="the smallest model, few steps: to see that it works")
    given = parser.parse_args()
    return carry_out(QUICK if given.quick else PARTS, given.out or home() / "bench", report.rows, workers=2)


if __name__ == "__main__":
    sys.exit(main())
