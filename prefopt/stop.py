"""Being told to stop: a signal sets a flag, and who works looks at it where stopping loses nothing."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefopt import ranks
from prefopt.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Ctrl-C; what a preempted job gets; what a job gets before its time limit."""

_asked = ""
_deferred = 0


def asked() -> str:
    """What asked this process to stop while it heeded signals; empty where nothing did."""
    return _asked


def check() -> None:
    """Raise Interrupted where this process was asked to stop, unless stopping is `deferred`."""
    if _asked and not _deferred:
        raise Interrupted(f"stopped by {_asked}", "the same command goes on from the last checkpoint")


def check_together() -> None:
    """`check` for all processes of a run, at a place that all come to: what one was asked, all were."""
    (stopping,) = ranks.anyone(bool(_asked))
    if stopping:
        raise Interrupted(
            f"stopped by {_asked or 'a signal to another process'}", "the same command goes on from the last checkpoint"
        )


@contextmanager
def heeded() -> Iterator[None]:
    """While entered, signals only set the flag, but for a second Ctrl-C, which stops at once.

    Nested, the outermost decides when the flag is forgotten.
    """
    global _asked
    if signal.getsignal(signal.SIGTERM) is _ask:
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    listen()
    try:
        yield
    finally:
        _asked = ""
        for number, handler in before.items():
            signal.signal(number, handler)


def listen() -> None:
    """Take the signals, back from whoever took them since `heeded` was entered; only the main thread can."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _ask)


@contextmanager
def deferred() -> Iterator[None]:
    """While entered, `check` lets go on: the loop looks at the flag itself, at a batch's end."""
    global _deferred
    _deferred += 1
    try:
        yield
    finally:
        _deferred -= 1


def _ask(number: int, frame: Any) -> None:
    global _asked
    if _asked and number == signal.SIGINT:
        raise Interrupted("stopped at once", "the same command goes on from the last checkpoint")
    _asked = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
