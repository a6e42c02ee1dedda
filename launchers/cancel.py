"""Ending a sweep's jobs."""

import os
import signal
import subprocess
from collections.abc import Iterable
from contextlib import suppress

from launchers.states import queue
from prefopt.errors import PrefoptError
from prefopt.manifest import Manifest


def cancel(manifest: Manifest) -> int:
    """Tell the sweep's jobs to stop: what runs saves a checkpoint, what waits never begins. How many there were.

    Raises PrefoptError where the cluster gives no answer.
    """
    (manifest.folder / "stopped").touch()
    alive = queue({job.id for job in manifest.jobs}, manifest.launcher["cluster"])
    if alive is None:
        raise PrefoptError("SLURM does not answer: squeue failed", "try again when `squeue` works here")
    if manifest.launcher["cluster"] == "local":
        for job in alive:
            with suppress(ProcessLookupError):
                os.kill(int(job), signal.SIGTERM)
    elif alive:
        withdraw(alive)
        # A job that is cancelled is killed before it has saved; one that is told leaves by itself.
        subprocess.run(["scancel", "--quiet", "--signal=TERM", *sorted(alive)], check=False)
    return len(alive)


def withdraw(jobs: Iterable[str]) -> None:
    """Take those of the jobs that still wait out of SLURM's queue."""
    subprocess.run(["scancel", "--quiet", "--state=PENDING", *sorted(jobs)], check=False)
