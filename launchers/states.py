"""How far the runs of a sweep have come, from their own files and from the queue."""

import os
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
from filelock import FileLock, Timeout

from prefopt.errors import PrefoptError
from prefopt.manifest import Job, Manifest
from prefopt.store import Run

ENDED = frozenset({"done", "failed"})
UNDER_WAY = frozenset({"queued", "waiting", "running"})
MISSING = frozenset({"new", "stopped", "lost"})
"""No job will bring these to an end, unless they are sent again."""


@dataclass(frozen=True)
class State:
    """state: new, queued, waiting, running, done, failed, stopped (told to), or lost (its job is gone without a word).

    status: what the run itself said last. job: the one that is to do it, or was.
    """

    state: str
    status: Mapping[str, Any]
    job: Job | None


def states(manifest: Manifest) -> dict[str, State] | None:
    """The state of every stage and cell by the name of its run; None where the cluster gives no answer."""
    alive = queue(manifest.jobs)
    if alive is None:
        return None
    last: dict[str, Job] = {}
    for job in manifest.jobs:
        for run in job.runs:
            if run not in last or job in alive or last[run] not in alive:
                last[run] = job
    return {
        entry.run: _state(manifest, manifest.stored(entry.run), last.get(entry.run), alive)
        for entry in (*manifest.stages, *manifest.cells)
    }


def known_states(manifest: Manifest) -> dict[str, State]:
    """`states`. Raises PrefoptError where the cluster gives no answer."""
    found = states(manifest)
    if found is None:
        raise PrefoptError("SLURM does not answer: squeue failed", "try again when `squeue` works here")
    return found


def _state(manifest: Manifest, run: Run, job: Job | None, alive: frozenset[Job]) -> State:
    status = run.status()
    state, sent = status["state"], job in alive
    # A job that was sent after the run last spoke has not come to it yet.
    unheard = sent and job is not None and status.get("time", 0.0) < job.time
    if run.done:
        pass
    elif held(run):
        state = "waiting" if state == "waiting" else "running"
    elif sent and (state not in ("failed", "lost") or unheard):
        state = "queued"
    elif state in ("running", "waiting") or (state == "new" and job is not None and not manifest.stopped()):
        state = "lost"
    elif state == "interrupted":
        state = "stopped"
    elif state == "done":
        state = "new"  # its results were deleted
    return State(state, status, job)


def held(run: Run) -> bool:
    """Whether some process, on whatever machine, works on the run."""
    if not run.lock.exists():
        return False
    guard = FileLock(run.lock)
    try:
        guard.acquire(timeout=0)
    except Timeout:
        return True
    guard.release()
    return False


def queue(jobs: Iterable[Job]) -> frozenset[Job] | None:
    """Those of the jobs that have not ended; None where SLURM gives no answer."""
    on_slurm = {job for job in jobs if job.cluster == "slurm"}
    here = {job for job in jobs if job.cluster == "local" and _runs(int(job.id))}
    if not on_slurm:
        return frozenset(here)
    command = ["squeue", "--noheader", "--array", "--user", str(os.getuid()), "--format", "%i"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return frozenset(here | {job for job in on_slurm if job.id in told})


def _runs(process: int) -> bool:
    """Whether the process of this id runs, and is one that submitit has started."""
    try:
        return "submitit.local._local" in psutil.Process(process).cmdline()
    except psutil.Error:
        return False


def counted(found: Mapping[str, State]) -> str:
    """`20 done, 3 running, 1 failed`."""
    order = ("done", "running", "waiting", "queued", "failed", "stopped", "lost", "new")
    counts = Counter(state.state for state in found.values())
    return ", ".join(f"{counts[state]} {state}" for state in order if counts[state])
