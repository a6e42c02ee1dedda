"""Being told to stop: a signal sets a flag, and the loop stops at a batch end."""

import signal
from typing import Any, Self

import lightning.pytorch as L

from prefopt.errors import Interrupted


class Stop(L.Callback):
    """While entered, holds the name of the signal that asked to stop; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.asked = ""

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Lightning has put its own handler before ours by now: it would stop between a batch's end and its checkpoint.
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked and number == signal.SIGINT:
            raise Interrupted("stopped at once", "the same command goes on from the last checkpoint")
        self.asked = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
