"""prefopt as an arm: a method, its cached reference and its loader in the loop that every run goes through."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from turns import in_turn

from prefopt.engine.loader import batches
from prefopt.engine.reference import with_reference
from prefopt.loop.fit import Training, fit, schedule
from prefopt.methods.pairwise.base import Pairwise
from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.robust.none import Plain
from prefopt.models.causal import CausalPolicy
from prefopt.tracking.events import EVENTS, EventFile

LEARNING_RATE = 3e-4
"""Of both sides, falling linearly to 0."""
PRECISIONS = ("32-true", "bf16-mixed")
SEED = 0


class Paused(Pairwise):
    """DPO that hands over its loss after every step, when all that a step brings with it is done."""

    def __init__(self) -> None:
        super().__init__(objective=DPO(beta=0.1), robust=Plain())
        self.pause: Callable[[Any], None]

    def loss(self, batch: Any) -> Any:
        losses, metrics = super().loss(batch)
        self.last = losses.detach().mean()
        return losses, metrics

    def on_train_batch_end(self, *_: Any) -> None:
        self.pause(self.last)


def policy(model: Any) -> Any:
    return CausalPolicy(model, None, max_response_length=1)


def referenced(model: Any, table: Any, *, precision: str, batch_size: int, device: str) -> Any:
    """The table with the model's log-probs, from the cache that runs use."""
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed"):
        (found,) = with_reference(
            [table], policy(model), batch_size=batch_size, device=torch.device(device), precision=precision
        )
    return found


def steps(model: Any, table: Any, folder: Path, *, precision: str, batch_size: int, device: str) -> Iterator[Any]:
    """The loss at each step of one round over the table, on the device, from a copy of the model."""
    method = Paused()
    method.prepare(
        {"policy": policy(copy.deepcopy(model)).to(device), "reference": None},
        optimizer=partial(torch.optim.AdamW, lr=LEARNING_RATE, weight_decay=0.0, fused=True),
        schedule=schedule(batches(len(table), batch_size), warmup=0.0, decay="linear"),
        micro_batch_size=None,
        clip=1.0,
        seed=SEED,
        data=table,
    )
    accelerator = "gpu" if device == "cuda" else device
    trainer = {"accelerator": accelerator, "strategy": "auto", "devices": 1, "num_nodes": 1, "precision": precision}
    trainer |= {"checkpoint_every_s": 1e9, "log_every": 10}
    folder.mkdir(parents=True, exist_ok=True)

    def train(pause: Callable[[Any], None]) -> None:
        method.pause = pause
        events = EventFile(folder / EVENTS)
        fit(
            Training(
                method,
                table,
                world="text",
                folder=folder,
                rounds=1,
                batch_size=batch_size,
                seed=SEED,
                trainer=trainer,
                events=events,
                measure=dict,
                times=1,
            )
        )
        events.close()

    return in_turn(train)
