"""A sweep as MLflow's parent run: the same record as a run's, in the sweep's directory.

All of it is files; whoever sends the first cell makes the parent in MLflow.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefopt.tracking import record
from prefopt.tracking.record import Ending, held, together


def begin(folder: Path, name: str, params: Mapping[str, Any], tags: Mapping[str, str], experiment: str) -> None:
    """Record that the sweep in `folder` begins, or goes on; its cells name `folder` as their parent."""
    folder.mkdir(parents=True, exist_ok=True)
    record.begin(folder, experiment, name, params, tags)


def attach(folder: Path, artifacts: Iterable[Path]) -> None:
    """Let these files and directories be sent, or sent anew, with the run or sweep in `folder`, where it is tracked.

    Those attached before that are gone by now are not asked for again.
    """
    with held(folder) as before:
        if before is not None:
            left = tuple(artifact for artifact in before.artifacts if (folder / artifact).exists())
            paths = together(replace(before, artifacts=left), folder, artifacts)
            replace(before, artifacts=paths, edition=before.edition + 1).save(folder)


def adopt(run_dir: Path, sweep: Path) -> None:
    """Make the sweep in that directory the parent of a tracked run that has none."""
    with held(run_dir) as before:
        if before is not None and before.parent is None:
            replace(before, parent=os.path.relpath(sweep, run_dir)).save(run_dir)


def end(folder: Path, status: Ending) -> None:
    """Record how the sweep in `folder` ended, or a run that could not do so itself, where it is tracked."""
    record.end(folder, status)
