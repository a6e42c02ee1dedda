"""Ending a sweep's jobs."""

import subprocess
from collections.abc import Iterable
from contextlib import suppress

import psutil

from launchers.states import queue
from prefopt.errors import PrefoptError
from prefopt.manifest import Manifest


def cancel(manifest: Manifest) -> int:
    """Tell the sweep's jobs to stop: what runs saves a checkpoint, what waits never begins. How many there were.

    Raises PrefoptError where the cluster gives no answer.
    """
    (manifest.folder / "stopped").touch()
    alive = queue(manifest.jobs)
    if alive is None:
        raise PrefoptError("SLURM does not answer: squeue failed", "try again when `squeue` works here")
    for job in alive:
        if job.cluster == "local":
            with suppress(psutil.NoSuchProcess):
                psutil.Process(int(job.id)).terminate()
    if on_slurm := sorted(job.id for job in alive if job.cluster == "slurm"):
        withdraw(on_slurm)
        # A job that is cancelled is killed before it has saved; one that is told leaves by itself.
        subprocess.run(["scancel", "--quiet", "--signal=TERM", *on_slurm], check=False)
    return len(alive)


def withdraw(jobs: Iterable[str]) -> None:
    """Take those of the jobs that still wait out of SLURM's queue."""
    if named := sorted(jobs):  # scancel without a job's id means all that the user has
        subprocess.run(["scancel", "--quiet", "--state=PENDING", *named], check=False)
