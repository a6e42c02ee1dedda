"""Running a method's rounds: Lightning loops, the callbacks stop, record, save and evaluate."""

import logging
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from prefopt import ranks, stop
from prefopt.engine.loader import batches
from prefopt.errors import PrefoptError
from prefopt.loop.checkpoints import Checkpoints, WholeFiles, newest_sound
from prefopt.loop.processes import Started, strategy_of
from prefopt.loop.record import Bar, Evaluate, Record, Unwritten
from prefopt.loop.rounds import Rounds
from prefopt.methods.base import Method
from prefopt.progress import say
from prefopt.table import Table
from prefopt.tracking.events import EventFile


def device_of(accelerator: str) -> torch.device:
    """Where this process computes; a GPU of its own becomes torch's current device.

    Raises PrefoptError where a GPU is asked for and there is none for it.
    """
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise PrefoptError(
            f"trainer.accelerator={accelerator}, but torch sees no GPU", "use trainer=cpu, or a machine with a GPU"
        )
    if accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if ranks.world() == 1:
        return torch.device("cuda")
    local, visible = ranks.place().local, torch.cuda.device_count()
    if local >= visible:
        raise PrefoptError(
            f"process {local} of this node has no GPU: torch sees {visible}",
            "start as many processes a node as it has GPUs, and let each see all of them "
            "(gpus_per_node, not gpus_per_task)",
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def steps_of(method: Method, data: Table, *, rounds: int, batch_size: int) -> int:
    """Optimiser steps of the whole run."""
    examples = method.per_round or len(data)
    return rounds * method.passes * batches(examples, batch_size)


def schedule(steps: int, *, warmup: float, decay: str) -> Callable[[int], float]:
    """The factor on the learning rate at a step: a linear rise over the share `warmup`, then level or a fall to 0."""
    if decay not in ("constant", "linear", "cosine"):
        raise PrefoptError(f"decay={decay} is not a schedule", "choose constant, linear or cosine")
    rise = warmup * steps

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        left = min(1.0, (steps - step) / max(1.0, steps - rise))
        return {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}[decay]

    return factor


@dataclass(frozen=True)
class Training:
    """A method that is ready to be trained, and how.

    world: `text` or `exact`. trainer: that node of the configuration. measure: called `times` - 1 times on the way, for
    figures that go to `events`. drawn: torch's random state, for others may draw before this is trained.
    """

    method: Method
    data: Table
    world: str
    folder: Path
    rounds: int
    batch_size: int
    seed: int
    trainer: Mapping[str, Any]
    events: EventFile | Unwritten
    measure: Callable[[], dict[str, float]]
    times: int
    drawn: torch.Tensor = field(default_factory=torch.get_rng_state)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return steps_of(self.method, self.data, rounds=self.rounds, batch_size=self.batch_size)

    @property
    def stacked(self) -> Path:
        """Where its checkpoints are when it trains with others."""
        return self.folder / "checkpoints" / "stacked"


def fit(training: Training) -> None:
    """Train a method, from the newest sound checkpoint in the run's folder where there is one."""
    method, data, folder, trainer = training.method, training.data, training.folder, training.trainer
    torch.set_rng_state(training.drawn)
    if not method.trains:
        for round in range(training.rounds):
            method.collect(data, round)
            method.finish(round)
        return
    steps = training.steps
    checkpoint = ranks.agreed(lambda: newest_sound(folder / "checkpoints"))
    if checkpoint is not None:
        say(f"going on from {checkpoint}", "dim")
    callbacks: list[L.Callback] = [
        Record(training.events, folder, every=trainer["log_every"]),
        Evaluate(training.measure, training.events, times=training.times, steps=steps),
        Bar(folder.name, steps),
        Checkpoints(folder / "checkpoints", every_s=trainer["checkpoint_every_s"]),
    ]
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), stop.heeded(), stop.deferred():
        warnings.filterwarnings("ignore", module="lightning")
        loop = L.Trainer(
            accelerator=device_of(trainer["accelerator"]).type,
            strategy=strategy_of(trainer["strategy"]),
            devices=trainer["devices"],
            num_nodes=trainer["num_nodes"],
            precision=trainer["precision"],
            max_epochs=training.rounds,
            reload_dataloaders_every_n_epochs=1,
            callbacks=callbacks,
            plugins=[WholeFiles(), Started()],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        source = Rounds(method, data, batch_size=training.batch_size, seed=training.seed)
        loop.fit(method, datamodule=source, ckpt_path=checkpoint)
