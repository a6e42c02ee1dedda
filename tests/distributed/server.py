"""Processes of runs, forked from one that has paid for the imports; started by `conftest.Processes`.

Every line on standard input is a list of jobs that are to work together; the answer is their exit codes, in one line.
"""

import itertools
import json
import os
import signal
import sys
from types import SimpleNamespace
from typing import Any

import torch

from prefopt.config import composed
from prefopt.errors import reports_errors
from prefopt.loop import checkpoints
from prefopt.loop.record import Record
from prefopt.run import run

LONGEST_S = 240


def work(job: dict[str, Any]) -> None:
    """`environment`, `overrides`, `log` for what it says, and `signalled`: a signal to it, and after which step."""
    signal.alarm(LONGEST_S)  # who still waits then waits for ever
    os.environ |= job["environment"]
    for number in (1, 2):
        os.dup2(os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    # A clock that ticks when it is looked at: checkpoints come every so many batches, wherever the tests run.
    checkpoints.time = SimpleNamespace(monotonic=itertools.count().__next__)  # type: ignore[assignment]
    if job["signalled"]:
        signalled(*job["signalled"])
    reports_errors(lambda: run(composed(job["overrides"])))()


def signalled(number: int, step: int) -> None:
    record = Record.on_train_batch_end

    def on_train_batch_end(self: Record, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == step:
            signal.raise_signal(number)
        record(self, trainer, *rest)

    Record.on_train_batch_end = on_train_batch_end  # type: ignore[method-assign]


def child(job: dict[str, Any]) -> None:
    try:
        work(job)
    except SystemExit as end:
        os._exit(int(end.code or 0))
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def serve() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        children = []
        for job in json.loads(line):
            if not (pid := os.fork()):
                child(job)
            children.append(pid)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]), flush=True)


if __name__ == "__main__":
    serve()
