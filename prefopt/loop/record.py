"""What a run writes down while it trains: metrics every so many steps, evaluations at set steps, and what broke it."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from prefopt import ranks
from prefopt.errors import Diverged
from prefopt.loop.rounds import Rounds
from prefopt.methods.base import Method
from prefopt.progress import bar
from prefopt.table import Table
from prefopt.tracking.events import EventFile


class Unwritten:
    """The event file of a process that is not the one that writes."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def flush(self) -> None:
        pass

    def rewind(self, step: int) -> None:
        pass

    def close(self) -> None:
        pass


class Record(L.Callback):
    """Writes the meter's means to the event file every `every` steps, and stops the run where one is not finite."""

    def __init__(self, events: EventFile | Unwritten, folder: Path, *, every: int) -> None:
        self.events, self.folder, self.every = events, folder, every

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.events.rewind(trainer.global_step)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % self.every == 0 or trainer.is_last_batch:
            self.flush(trainer, pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.check(trainer, pl_module)
        self.events.flush()

    def flush(self, trainer: L.Trainer, method: Method) -> None:
        self.check(trainer, method)
        if means := method.meter.read():
            means["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
            self.events.write(trainer.global_step, means)
        for memory in method._memories:
            memory.tell()

    def check(self, trainer: L.Trainer, method: Method) -> None:
        rounds: Any = trainer.datamodule
        assert isinstance(rounds, Rounds)
        loader = rounds.loader
        check(method.meter.steps(), trainer.global_step, loader.table, loader.plan[: loader.given], self.folder)


def check(
    seen: Sequence[tuple[float, float]], step: int, table: Table, given: Sequence[np.ndarray], folder: Path
) -> None:
    """Raise Diverged, after saving the batch that did it, where a loss or gradient is not finite.

    seen: loss and gradient norm of the newest steps, of which `step` is the last. given: rows of this round's batches.
    """
    bad = next((i for i, numbers in enumerate(seen) if not all(map(math.isfinite, numbers))), None)
    if bad is None:
        return
    loss, norm = seen[bad]
    batch = table.batch(given[len(given) - len(seen) + bad])
    path = folder / "bad_batch.safetensors"
    if ranks.first():
        save_file({k: v.contiguous() for k, v in vars(batch).items() if isinstance(v, Tensor)}, path)
    what = f"the gradient's norm is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
    raise Diverged(
        f"{what} at step {step - len(seen) + bad + 1}; the batch that did it is {path} "
        f"(examples {', '.join(map(str, table.ids[batch.index.numpy()][:4]))} ...)",
        "lower optimizer.lr or clip, or look at these examples; the last good checkpoint is kept",
    )


def evaluations(steps: int, times: int) -> set[int]:
    """The steps that divide a run into `times` parts, the end excepted."""
    return {round(steps * k / times) for k in range(1, times)} - {0, steps}


class Evaluate(L.Callback):
    """Calls `measure` at the run's `evaluations`, and writes its figures.

    Every process measures the same: none waits for another, and sharded weights are whole only where all take part.
    """

    def __init__(
        self, measure: Callable[[], dict[str, float]], events: EventFile | Unwritten, *, times: int, steps: int
    ) -> None:
        self.measure, self.events = measure, events
        self.at = evaluations(steps, times)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step in self.at:
            with trainer.precision_plugin.forward_context():
                figures = self.measure()
            self.events.write(trainer.global_step, figures)


class Bar(L.Callback):
    """Steps done of all, rate, time left, and the loss where it was last read."""

    def __init__(self, description: str, steps: int) -> None:
        self.description, self.steps = description, steps

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._display = bar(self.description, self.steps, trainer.global_step)
        self._update = self._display.__enter__()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._update(1, f"round {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._display.__exit__(None, None, None)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if hasattr(self, "_display"):
            self._display.__exit__(None, None, None)
