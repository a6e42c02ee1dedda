"""Runs in processes of their own, forked from one that has paid for the imports; started by `conftest.Processes`.

Every line on standard input is a job or `{"wait": pid}`; the answers, one line each, are a pid or an exit code.
"""

import itertools
import json
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch

from prefopt.config import composed
from prefopt.errors import reports_errors
from prefopt.evaluation import figures
from prefopt.loop import checkpoints
from prefopt.run import run
from prefopt.tracking import events


def work(job: dict[str, Any]) -> None:
    """One run: `overrides`, `home`, `log` for what it says, and `dies`, where and when SIGKILL meets it."""
    os.environ["PREFOPT_HOME"] = job["home"]
    figures.learning_curves = figures.margin_histogram = lambda *_: []  # other tests draw, and it takes the longest
    for number in (1, 2):
        os.dup2(os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    # A clock that ticks when it is looked at: checkpoints come every so many batches, wherever the tests run.
    checkpoints.time = SimpleNamespace(monotonic=itertools.count().__next__)  # type: ignore[assignment]
    events.VISIBLE_S = -1.0  # every event is in its file at once, also those that a resumed run must take back
    if job["dies"]:
        dies(*job["dies"])
    reports_errors(lambda: run(composed(job["overrides"])))()


def dies(place: str, when: int) -> None:
    """Die before the call of `place` (`module:Class.function`) number `when` ends what it does.

    At `place` step, die at the end of the optimiser step of that number.
    """
    if place == "step":
        at("prefopt.loop.record:Record.on_train_batch_end", lambda calls, args: args[1].global_step == when)
    else:
        at(place, lambda calls, args: calls == when)


def at(place: str, now: Callable[[int, tuple[Any, ...]], bool]) -> None:
    module, _, path = place.partition(":")
    *outer, name = path.split(".")
    owner: Any = import_module(module)
    for part in outer:
        owner = getattr(owner, part)
    function, calls = getattr(owner, name), itertools.count(1)

    def mortal(*args: Any, **kwargs: Any) -> Any:
        if now(next(calls), args):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(owner, name, mortal)


def serve() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            print(os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1]), flush=True)
        elif child := os.fork():
            print(child, flush=True)
        else:
            try:
                work(job)
            except SystemExit as end:
                os._exit(int(end.code or 0))
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)


if __name__ == "__main__":
    serve()
