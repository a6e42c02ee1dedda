"""What a job does: runs, one after the other in one process, or side by side in forks of it."""

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submitit.helpers import DelayedSubmission

from launchers.forks import Names, forked, use, warm
from launchers.states import held
from prefopt import ranks, stop
from prefopt.errors import Interrupted, PrefoptError
from prefopt.manifest import Cell, Manifest
from prefopt.store import Run, Taken
from prefopt.tracking.telemetry import silence

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from prefopt.run import Planned

UNFORESEEN = 1
"""The exit code of an error that is no PrefoptError."""
CHANGED = "send the sweep again; or put back what was there when it was sent, and `python -m prefopt.sweep resume`"


@dataclass(frozen=True)
class Work:
    """The runs of one job of a sweep, sent at this time. shared: other jobs take from the same list, so what is taken
    is passed over. forks: how many runs are carried out side by side, each in a fork; 0: all in this process.
    stack: whether cells of exact worlds, and those that adapt one model, are trained as one, as far as they are alike,
    in as many stacks as forks. What they print is in the job's log, while a run by itself has a `log.txt`.

    Called by submitit in the job; its exit code is that of the first run that failed. What has failed since the job was
    sent, in a job before a requeue or in one beside it, is not tried again.
    """

    sweep: Path
    runs: tuple[str, ...]
    shared: bool
    sent: float
    forks: int = 0
    stack: bool = False

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

    def _groups(self, manifest: Manifest) -> list[Names]:
        """The runs, those together that one stack carries out; what several processes carry out is by itself."""
        entries = [manifest.entry(name) for name in self.runs]
        if not self.stack or ranks.world() > 1:
            return [(entry.run,) for entry in entries]
        found: dict[str, list[str]] = {}
        for entry in entries:
            if entry.index is not None and (kind := _stackable(entry)):
                found.setdefault(kind, []).append(entry.run)
        stacks = []
        for names in found.values():
            size = -(-len(names) // max(1, self.forks))
            stacks += [tuple(names[start : start + size]) for start in range(0, len(names), size)]
        stacked = {name for names in stacks for name in names}
        return [(entry.run,) for entry in entries if entry.run not in stacked] + stacks

    def _in_turn(self, manifest: Manifest) -> Iterator[int]:
        """The exit code of each group of runs, one after the other in this process."""
        for names in self._groups(manifest):
            interrupted, stopped = ranks.anyone(bool(stop.asked()), manifest.stopped())
            if interrupted:
                yield Interrupted.exit_code
            if interrupted or stopped:
                return
            code = self._carried_out(manifest, names)
            yield code
            if code == Interrupted.exit_code or (code == UNFORESEEN and ranks.world() > 1):
                return  # in the second case its processes no longer agree on where they are

    def _side_by_side(self, manifest: Manifest) -> Iterator[int]:
        """The exit code of each group of runs as its process ends, negative where a signal ended it; each is a fork of
        this process once that is warm. Stages that cells share come first."""
        try:
            threads = warm(manifest.entry(name) for name in self.runs)
        except Interrupted:
            yield Interrupted.exit_code
            return

        def carried_out(names: Names) -> int:
            use(threads)
            return self._carried_out(manifest, names)

        def goes_on() -> bool:
            return not (stop.asked() or manifest.stopped())

        groups, shared = self._groups(manifest), {stage.run for stage in manifest.stages}
        left = set(self.runs)
        for stages in (True, False):
            part = [names for names in groups if (names[0] in shared) is stages]
            for names, code in forked(part, self.forks, carried_out, goes_on):
                left.difference_update(names)
                if code < 0:
                    for name in names:
                        lost(manifest.stored(name), signal.Signals(-code).name, self.sent)
                yield code
        if left and stop.asked():
            yield Interrupted.exit_code

    def _carried_out(self, manifest: Manifest, names: Names) -> int:
        """The exit code that the runs would have had as commands of their own: of one that was interrupted, or else of
        the first that failed."""
        began = time.time()
        since = self.sent if ranks.world() == 1 else None  # of several, one may just have been lost
        again = {name for name in names if since and not self.shared and manifest.stored(name).failed_since(since)}
        entries = [manifest.entry(name) for name in names if name not in again]
        for entry in entries:
            manifest.stored(entry.run).folder.mkdir(parents=True, exist_ok=True)
        if len(names) == 1:
            errors = [self._alone(manifest, entry, since) for entry in entries]
        else:
            errors = self._together(manifest, entries, since)
        codes = [self._ended(manifest, *each, began) for each in zip(entries, errors, strict=True)]
        codes += [UNFORESEEN] * len(again)
        interrupted = Interrupted.exit_code in codes
        return Interrupted.exit_code if interrupted else next((code for code in codes if code), 0)

    def _alone(self, manifest: Manifest, entry: Cell, since: float | None) -> Exception | None:
        """What ended the run, which has its own log; None where nothing did."""
        from prefopt.run import run

        log = "log.txt" if ranks.first() else f"log.{ranks.place().rank}.txt"
        with logged(manifest.stored(entry.run).folder / log):
            try:
                config, planned = _planned(manifest, entry)
                run(config, wait=not self.shared, planned=planned, since=since)
            except Exception as error:
                if not isinstance(error, Taken):
                    print(_said(error), file=sys.stderr)
                return error
        return None

    def _together(self, manifest: Manifest, entries: Sequence[Cell], since: float | None) -> list[Exception | None]:
        """What ended each of the runs of a stack, whose log is the job's; None where nothing did."""
        from prefopt.run import run_together

        return run_together([_planned(manifest, entry) for entry in entries], since=since)

    def _ended(self, manifest: Manifest, entry: Cell, error: Exception | None, began: float) -> int:
        """The exit code of a run that began then and that the error, if any, has ended; a failure is recorded."""
        stored = manifest.stored(entry.run)
        if isinstance(error, Taken):
            return 0
        code = 0 if error is None else error.exit_code if isinstance(error, PrefoptError) else UNFORESEEN
        how = "done" if error is None else _said(error)
        if code not in (0, Interrupted.exit_code) and not stored.failed_since(began):
            with suppress(OSError):  # a full disk must not hide what went wrong
                (stored.folder / "error.txt").write_text(how)
                stored.mark("failed", error=how.splitlines()[-1])
        if ranks.first():
            place = "" if entry.index is None else f"cell {entry.index}, "
            print(f"{place}{entry.run}, {time.time() - began:.1f} s: {how}", flush=True)
        return code


def _stackable(entry: Cell) -> str:
    """What cells have in common that may train as one: an exact world, or a model with adapters and what it starts
    from, for no more than one is to be in memory. Empty where a cell trains alone."""
    from hydra.utils import get_object
    from omegaconf import DictConfig, OmegaConf

    config: Any = OmegaConf.create(dict(entry.config))
    if get_object(config.model._target_).world == "exact":
        return "exact"
    if not config.model.get("lora"):
        return ""
    frozen = {key: value for key, value in config.model.items() if key != "lora"}
    begins = config.method.needs.get("policy")
    stage = (begins, config.dataset, config.seed) if isinstance(begins, DictConfig) else None
    return f"{frozen} {stage}"


def _planned(manifest: Manifest, entry: Cell) -> "tuple[DictConfig, Planned]":
    """A run's configuration, and what the sweep says of it."""
    from omegaconf import OmegaConf

    from prefopt.run import Planned

    labels = {} if entry.index is None else {"sweep": manifest.name, "cell": str(entry.index)}
    parent = None if entry.index is None else manifest.folder
    return OmegaConf.create(dict(entry.config)), Planned(entry.run, CHANGED, parent, labels)


def _said(error: Exception) -> str:
    if isinstance(error, PrefoptError):
        return f"prefopt: {error}"
    return "".join(traceback.format_exception(error)).strip()


def lost(stored: Run, cause: str, sent: float) -> None:
    """Say that the process which carried out this run was ended from outside, unless the run had ended since it was
    sent, or another process has it."""
    if stored.done or stored.failed_since(sent):
        return
    print(f"{stored.name}: its process was ended by {cause}", flush=True)
    if stored.folder.exists() and not held(stored):
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
