"""Waiting for a sweep: its progress shown, its runs sent to MLflow, what was lost sent again."""

import time
from collections import Counter
from collections.abc import Mapping

from launchers import jobs
from launchers.cancel import cancel, withdraw
from launchers.options import Options
from launchers.states import ENDED, MISSING, State, counted, queue, states
from prefopt import stop
from prefopt.errors import Interrupted
from prefopt.manifest import Manifest
from prefopt.progress import bar, say
from prefopt.summary import shown

GLANCE_S = 0.5
LOST_AFTER_POLLS = 3
"""Polls after which a run without a job is believed to be lost: shared file systems lag behind the queue."""


def watch(manifest: Manifest, options: Options) -> Mapping[str, State]:
    """The states at the end: when every cell is done or failed, or was lost too often.

    Raises Interrupted at Ctrl-C: a local sweep is stopped then, at checkpoints; one on a cluster goes on by itself.
    """
    sent: Counter[str] = Counter()
    polls: Counter[str] = Counter()
    ended = 0
    with bar(f"sweep {manifest.name}", len(manifest.cells)) as progress, stop.heeded():
        while True:
            if stop.asked():
                _interrupted(manifest, options)
            if (found := states(manifest)) is None:
                _pause(options.poll_s)
                continue
            cells = {cell.run: found[cell.run] for cell in manifest.cells}
            progress(sum(s.state in ENDED for s in cells.values()) - ended, counted(cells))
            ended = sum(s.state in ENDED for s in cells.values())
            polls = Counter({run: polls[run] + 1 for run in cells if cells[run].state in MISSING})
            gone = [run for run in cells if polls[run] >= LOST_AFTER_POLLS]
            again = [run for run in gone if sent[run] < options.resends and not manifest.stopped()]
            if again:
                say(f"lost: {', '.join(again)}; sent again, to go on from the last checkpoint", "yellow")
                sent.update(again)
                polls.clear()
                manifest = jobs.send(manifest, jobs.batches(manifest, found, again, options), found, options)
            elif all(s.state in ENDED or run in gone for run, s in cells.items()):
                return found
            else:
                if manifest.stopped() and options.cluster == "slurm":
                    withdraw(s.job.id for s in cells.values() if s.state == "queued" and s.job is not None)
                _pause(options.poll_s)


def _pause(seconds: float) -> None:
    """Wait, but not on when this process is told to stop."""
    deadline = time.monotonic() + seconds
    while not stop.asked() and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, GLANCE_S))


def _interrupted(manifest: Manifest, options: Options) -> None:
    place = shown(manifest.folder)
    if options.cluster == "slurm":
        raise Interrupted(
            "no longer waiting; the sweep goes on",
            f"python -m prefopt.sweep status {place} shows how, python -m prefopt.sweep cancel {place} ends it",
        )
    say("stopping at the next checkpoint of each cell; Ctrl-C again leaves at once")
    cancel(manifest)
    while queue(manifest.jobs):
        time.sleep(GLANCE_S)
    raise Interrupted("the sweep was stopped by Ctrl-C", f"python -m prefopt.sweep resume {place}")
