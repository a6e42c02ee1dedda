"""What a run writes down while it trains: metrics every so many steps, evaluations at set steps, and what broke it."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from safetensors.torch import save_file
from torch import Tensor

from prefopt import ranks
from prefopt.errors import Diverged
from prefopt.loop.rounds import Rounds
from prefopt.methods.base import Method
from prefopt.progress import bar
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

    def check(self, trainer: L.Trainer, method: Method) -> None:
        """Raise Diverged, after saving the batch that did it, where a loss or gradient since the last reading is not
        finite."""
        steps = method.meter.steps()
        bad = next((i for i, step in enumerate(steps) if not all(map(math.isfinite, step))), None)
        if bad is None:
            return
        loss, norm = steps[bad]
        rounds: Any = trainer.datamodule
        assert isinstance(rounds, Rounds)
        loader = rounds.loader
        batch = loader.table.batch(loader.plan[loader.given - len(steps) + bad])
        path = self.folder / "bad_batch.safetensors"
        if ranks.first():
            save_file({k: v.contiguous() for k, v in vars(batch).items() if isinstance(v, Tensor)}, path)
        what = f"the gradient's norm is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
        raise Diverged(
            f"{what} at step {trainer.global_step - len(steps) + bad + 1}; the batch that did it is {path} "
            f"(examples {', '.join(map(str, loader.table.ids[batch.index.numpy()][:4]))} ...)",
            "lower optimizer.lr or clip, or look at these examples; the last good checkpoint is kept",
        )


class Evaluate(L.Callback):
    """Calls `measure` at the steps that divide the run into `times` parts, the end excepted, and writes its figures.

    Every process measures the same: none waits for another, and sharded weights are whole only where all take part.
    """

    def __init__(
        self, measure: Callable[[], dict[str, float]], events: EventFile | Unwritten, *, times: int, steps: int
    ) -> None:
        self.measure, self.events = measure, events
        self.at = {round(steps * k / times) for k in range(1, times)} - {0, steps}

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
