"""What a job does: runs, one after the other in one process, or side by side in forks of it."""

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from submitit.helpers import DelayedSubmission

from launchers.forks import forked, use, warm
from launchers.states import held
from prefopt import ranks, stop
from prefopt.errors import Interrupted, PrefoptError
from prefopt.manifest import Cell, Manifest
from prefopt.store import Run, Taken
from prefopt.tracking.telemetry import silence

UNFORESEEN = 1
"""The exit code of an error that is no PrefoptError."""
CHANGED = "send the sweep again; or put back what was there when it was sent, and `python -m prefopt.sweep resume`"


@dataclass(frozen=True)
class Work:
    """The runs of one job of a sweep, sent at this time. shared: other jobs take from the same list, so what is taken
    is passed over. forks: how many runs are carried out side by side, each in a fork; 0: all in this process.

    Called by submitit in the job; its exit code is that of the first run that failed. What has failed since the job was
    sent, in a job before a requeue or in one beside it, is not tried again.
    """

    sweep: Path
    runs: tuple[str, ...]
    shared: bool
    sent: float
    forks: int = 0

    def __call__(self) -> None:
        requeue = signal.getsignal(signal.SIGUSR2)
        cpus = int(os.environ.get("SLURM_CPUS_PER_TASK", 1))
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cpus // max(1, self.forks))))
        failed, interrupted = 0, False
        with stop.heeded():
            silence()
            manifest = Manifest.read(self.sweep)
            os.environ["PREFOPT_HOME"] = str(manifest.home)
            for code in self._side_by_side(manifest) if self.forks else self._in_turn(manifest):
                if code == Interrupted.exit_code:
                    interrupted = True
                    continue
                failed = failed or (code if code >= 0 else UNFORESEEN)
                if code > 0 and manifest.launcher["on_error"] == "stop":
                    (self.sweep / "stopped").touch()
            if interrupted and callable(requeue) and preempted() and not manifest.stopped():
                print("told to stop: requeued, to go on from here", flush=True)
                requeue(signal.SIGUSR2, None)  # submitit's: asks SLURM, and leaves
        if failed or interrupted:
            sys.exit(failed or Interrupted.exit_code)

    def checkpoint(self) -> DelayedSubmission:
        """What the requeued job does: the same, for runs know how far they have come."""
        return DelayedSubmission(self)

    def _in_turn(self, manifest: Manifest) -> Iterator[int]:
        """The exit code of each run, one after the other in this process."""
        for name in self.runs:
            interrupted, stopped = ranks.anyone(bool(stop.asked()), manifest.stopped())
            if interrupted:
                yield Interrupted.exit_code
            if interrupted or stopped:
                return
            code = self._carried_out(manifest, manifest.entry(name))
            yield code
            if code == Interrupted.exit_code or (code == UNFORESEEN and ranks.world() > 1):
                return  # in the second case its processes no longer agree on where they are

    def _side_by_side(self, manifest: Manifest) -> Iterator[int]:
        """The exit code of each run as its process ends, negative where a signal ended it; each is a fork of this
        process once that is warm. Stages that cells share come first."""
        entries = {name: manifest.entry(name) for name in self.runs}
        try:
            threads = warm(entries.values())
        except Interrupted:
            yield Interrupted.exit_code
            return

        def carried_out(name: str) -> int:
            use(threads)
            return self._carried_out(manifest, entries[name])

        def goes_on() -> bool:
            return not (stop.asked() or manifest.stopped())

        stages = [name for name, entry in entries.items() if entry.index is None]
        cells = [name for name, entry in entries.items() if entry.index is not None]
        left = set(entries)
        for group in (stages, cells):
            for name, code in forked(group, self.forks, carried_out, goes_on):
                left.discard(name)
                if code < 0:
                    lost(manifest.stored(name), signal.Signals(-code).name)
                yield code
        if left and stop.asked():
            yield Interrupted.exit_code

    def _carried_out(self, manifest: Manifest, entry: Cell) -> int:
        """The exit code that the run would have had as a command of its own."""
        stored, began, code = manifest.stored(entry.run), time.time(), 0
        since = self.sent if ranks.world() == 1 else None  # of several, one may just have been lost
        if since is not None and not self.shared and stored.failed_since(since):
            return UNFORESEEN
        stored.folder.mkdir(parents=True, exist_ok=True)
        with logged(stored.folder / ("log.txt" if ranks.first() else f"log.{ranks.place().rank}.txt")):
            try:
                self._run(manifest, entry, since)
                how = "done"
            except Taken:
                return 0
            except PrefoptError as error:
                code, how = error.exit_code, str(error)
                print(f"prefopt: {how}", file=sys.stderr)
            except Exception:
                code, how = UNFORESEEN, traceback.format_exc().strip()
                print(how, file=sys.stderr)
        if code not in (0, Interrupted.exit_code) and not stored.failed_since(began):
            with suppress(OSError):  # a full disk must not hide what went wrong
                (stored.folder / "error.txt").write_text(how)
                stored.mark("failed", error=how.splitlines()[-1])
        if ranks.first():
            place = "" if entry.index is None else f"cell {entry.index}, "
            print(f"{place}{entry.run}, {time.time() - began:.1f} s: {how}", flush=True)
        return code

    def _run(self, manifest: Manifest, entry: Cell, since: float | None) -> None:
        from omegaconf import OmegaConf

        from prefopt.run import Planned, run

        config = OmegaConf.create(dict(entry.config))
        labels = {} if entry.index is None else {"sweep": manifest.name, "cell": str(entry.index)}
        parent = None if entry.index is None else manifest.folder
        run(config, wait=not self.shared, planned=Planned(entry.run, CHANGED, parent, labels), since=since)


def lost(stored: Run, cause: str) -> None:
    """Say that the process which carried out this run was ended from outside, unless another has the run."""
    print(f"{stored.name}: its process was ended by {cause}", flush=True)
    if stored.folder.exists() and not stored.done and not held(stored):
        stored.mark("lost")


def preempted() -> bool:
    """Whether this job is to be requeued: on SLURM, and not cancelled."""
    if os.environ["SUBMITIT_EXECUTOR"] != "slurm":
        return False
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_TASK_ID" in os.environ:  # the id of an array's last task is also the id of all
        job = "{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}".format(**os.environ)
    told = subprocess.run(["squeue", "--noheader", "--job", job, "--format", "%T"], capture_output=True, text=True)
    return told.stdout.split() in (["RUNNING"], ["SIGNALING"])  # the second for as long as the signal takes to arrive


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """While entered, standard output and error of this process and its children are appended to `path`."""
    streams = (sys.stdout, sys.stderr)
    kept = [os.dup(stream.fileno()) for stream in streams]
    with path.open("ab") as file:
        try:
            for stream in streams:
                stream.flush()
                os.dup2(file.fileno(), stream.fileno())
            yield
        finally:
            for stream, before in zip(streams, kept, strict=True):
                stream.flush()
                os.dup2(before, stream.fileno())
                os.close(before)
