"""Training loops that take turns in one process, and what each turn costs."""

from collections.abc import Callable, Iterator, Mapping
from queue import SimpleQueue
from threading import Thread
from time import process_time
from typing import Any

import torch


def in_turn(work: Callable[[Callable[[Any], None]], None]) -> Iterator[Any]:
    """What `work` hands to the function that it is given, one at a time: it runs on a thread of its own, and only
    while the next one is asked for. It is left where it stands when no more are."""
    said: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    go: SimpleQueue[bool] = SimpleQueue()

    def pause(value: Any) -> None:
        said.put(("step", value))
        if not go.get():
            raise SystemExit

    def run() -> None:
        try:
            if go.get():
                work(pause)
            said.put(("end", None))
        except BaseException as error:
            said.put(("error", error))

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            go.put(True)
            kind, value = said.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        go.put(False)
        thread.join()


class Taken(dict[str, list[float]]):
    """Seconds of every turn, by arm, and the losses at all its steps."""

    def __init__(self, arms: Mapping[str, Iterator[Any]]) -> None:
        super().__init__({name: [] for name in arms})
        self.losses: dict[str, list[float]] = {name: [] for name in arms}


def taken(arms: Mapping[str, Iterator[Any]], turns: int, *, steps: int = 1, device: str = "cpu") -> Taken:
    """Give each arm `turns` turns of `steps` optimiser steps, in an order that is reversed each time.

    Seconds are of the process's CPU time, or on CUDA between two events with all work done.
    """
    found = Taken(arms)
    clock = cuda_clock if device == "cuda" else cpu_clock
    for turn in range(turns):
        for name in list(arms)[:: 1 if turn % 2 == 0 else -1]:
            losses, seconds = clock(lambda arm=arms[name]: [next(arm) for _ in range(steps)])
            found[name].append(seconds)
            found.losses[name] += [float(loss) for loss in losses]
    return found


def cpu_clock(work: Callable[[], Any]) -> tuple[Any, float]:
    before = process_time()
    result = work()
    return result, process_time() - before


def cuda_clock(work: Callable[[], Any]) -> tuple[Any, float]:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    result = work()
    end.record()
    torch.cuda.synchronize()
    return result, begin.elapsed_time(end) / 1000
