"""A warm process, and runs that are carried out in forks of it: what each would import and set up is there already."""

import ctypes
import gc
import json
import multiprocessing
import os
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

from prefopt import stop
from prefopt.errors import Interrupted
from prefopt.manifest import Cell
from prefopt.progress import say

GLANCE_S = 0.5
"""Seconds between two looks at whether this process was told to stop."""
PR_SET_PDEATHSIG = 1
"""Of Linux: the signal that a process gets when its parent dies."""
SMALLEST = (
    "trainer=cpu",
    "tracking=none",
    "dataset.pairs=8",
    "dataset.test_pairs=8",
    "rounds=1",
    "batch_size=8",
    "evaluation.prompts=2",
    "evaluation.times=1",
)
REHEARSALS = {
    "exact": ("method=dpo", "dataset=bandit", "model=log_linear"),
    "text": ("method=dpo", "dataset=words", "model=tiny", "model.hidden_size=16", "model.start=null"),
}
"""By world, a run that does what every run does, besides `SMALLEST`."""


def warm(entries: Iterable[Cell]) -> int:
    """Read the data of these runs, and carry out the smallest run of each of their worlds, in a home that is thrown
    away; the threads that torch had before.

    It can be forked, for it has no threads of torch or tokenizers, and sees no GPU: a fork cannot use one that its
    parent has looked for. Raises Interrupted where the process is told to stop meanwhile.
    """
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    import torch
    from hydra.utils import get_object
    from omegaconf import OmegaConf

    from prefopt.config import composed
    from prefopt.run import read_ahead, run

    each = {json.dumps([entry.config[key] for key in ("model", "dataset", "seed")]): entry.config for entry in entries}
    worlds = {get_object(config["model"]["_target_"]).world for config in each.values()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    home = os.environ["PREFOPT_HOME"]
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["PREFOPT_HOME"] = scratch
        try:
            for world in sorted(worlds):
                tried(partial(run, composed([*SMALLEST, *REHEARSALS[world]])), f"a rehearsal of the {world} world")
        finally:
            os.environ["PREFOPT_HOME"] = home
    for config in each.values():
        tried(partial(read_ahead, OmegaConf.create(dict(config))), "reading data ahead")
    gc.collect()
    gc.freeze()  # a fork's collector would look through, and so copy, all that was imported
    return threads


def tried(do: Callable[[], Any], what: str) -> None:
    """Do what only saves time: where it fails, the runs will say why."""
    try:
        do()
    except Interrupted:
        raise
    except Exception as error:
        say(f"{what} failed before any run began: {error}", "yellow")


def use(threads: int) -> None:
    """In a fork: have as many threads as a process that is none."""
    import torch

    torch.set_num_threads(threads)


Names = tuple[str, ...]


def forked(
    groups: Sequence[Names], most: int, carried_out: Callable[[Names], int], goes_on: Callable[[], bool]
) -> Iterator[tuple[Names, int]]:
    """Carry each group of runs out in a process of its own, up to `most` at a time: each, and its exit code as its
    process ends.

    The code is negative, a signal's number, where that ended the process. When this process is told to stop, so are
    they. No further one begins once it does not go on.
    """
    fork = multiprocessing.get_context("fork")
    waiting = deque(groups)
    running: dict[Any, tuple[Names, BaseProcess]] = {}
    while running or (waiting and goes_on()):
        while waiting and len(running) < most and goes_on():
            names = waiting.popleft()
            begun = fork.Process(target=_left, args=(carried_out, names, os.getpid()))
            begun.start()
            running[begun.sentinel] = names, begun
        for sentinel in connection.wait(running, GLANCE_S):
            names, process = running.pop(sentinel)
            process.join()
            assert process.exitcode is not None
            yield names, process.exitcode
        if stop.asked():
            for _, process in running.values():
                process.terminate()


def _left(carried_out: Callable[[Names], int], names: Names, parent: int) -> None:
    """What a fork does. It is told to stop when its parent dies, for nobody else knows of it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(Interrupted.exit_code)
    sys.exit(carried_out(names))
