"""The line from a process to the one that sends for it."""

import functools
import os
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import NamedTuple

from prefopt.tracking.telemetry import SWITCHES


class Order(NamedTuple):
    """Send these runs every so many seconds; `ends`: they are over, send the rest and answer.

    owned: they live in the process that orders, so that its end is theirs.
    """

    folders: tuple[Path, ...]
    home: Path
    uri: str
    every_s: float
    owned: bool
    ends: bool = False


Troubles = dict[Path, str | None]
"""What keeps each run from being whole in MLflow; None: nothing, it is."""


class Channel:
    """The other end of `sender.serve`: one process for all runs of this one. It ends when this one does."""

    def __init__(self, home: Path) -> None:
        self.pipe, theirs = Pipe()
        self.answers: Troubles = {}
        self.log = home / "mlflow.log"
        checkout = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([checkout, *filter(None, [os.environ.get("PYTHONPATH")])])
        home.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "prefopt.tracking.sender", str(theirs.fileno())],
                env=SWITCHES | os.environ | {"PYTHONPATH": path},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        theirs.close()

    def begin(self, order: Order) -> None:
        with suppress(ConnectionError):  # a sender that died is found, and replaced, at the end
            self.pipe.send(order)

    def end(self, order: Order, patience_s: float) -> Troubles:
        """Send the rest of these runs, and wait for it, but not longer than `patience_s`."""
        deadline = time.monotonic() + patience_s
        trouble = f"sending takes longer than {patience_s:g} s; it goes on while it can"
        try:
            self.pipe.send(order._replace(ends=True))
            while not self.answers.keys() >= set(order.folders) and self.pipe.poll(max(deadline - time.monotonic(), 0)):
                self.answers |= self.pipe.recv()
        except (ConnectionError, EOFError):
            trouble = f"the process that sends ended; its last words are in {self.log}"
        return {folder: self.answers.pop(folder, trouble) for folder in order.folders}


@functools.cache
def _channel_of(process: int, home: Path) -> Channel:
    return Channel(home)


def channel(home: Path) -> Channel:
    """This process's own channel (a fork gets another), its sender alive."""
    found = _channel_of(os.getpid(), home)
    if found.process.poll() is None:
        return found
    _channel_of.cache_clear()
    return _channel_of(os.getpid(), home)
