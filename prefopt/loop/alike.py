"""Which runs can train as one: of exact worlds, those that differ in numbers, labels and seeds alone; of text, those
that adapt the same frozen weights."""

from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prefopt import ranks
from prefopt.engine.adapters import adapted
from prefopt.engine.loader import batches
from prefopt.loop.checkpoints import WholeFiles, newest_sound
from prefopt.loop.fit import Training, device_of
from prefopt.methods.base import Method
from prefopt.methods.memory import Memory

PROPORTIONAL = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
"""Optimisers that treat each number by itself, and whose step is the learning rate times what does not depend on it."""
HOOKS = ("collect", "finish", "training_step", "_clipped")
"""What a method must do as every method does it: then its loss is all that it is."""
HELD = frozenset(vars(Method())) - {"seed"} | {
    *("_optimizer", "_schedule", "_micro_batch_size", "_clip", "_memories", "_given")
}
"""Attributes that every method has, and that no loss looks at."""

Numbers = dict[tuple[str, str], Any]
"""By module and attribute, a number or a tuple of numbers."""


class Apart(Exception):
    """Why a run cannot train with others."""


def likeness(training: Training) -> Hashable:
    """What is the same in all runs of an exact world that train as one. Raises Apart for one that cannot."""
    method, data, trainer = training.method, training.data, training.trainer
    _refuse(
        training,
        {
            "it has micro-batches": method._micro_batch_size is not None,
            "its batches are of two sizes": len(data) % batches(len(data), training.batch_size) != 0,
            "its precision is mixed": trainer["precision"] != "32-true",
        },
    )
    tensors = [*method.named_parameters(), *method.named_buffers()]
    batch = data.batch(np.arange(len(data)))
    return (
        type(method),
        tuple(_form(path, module) for path, module in method.named_modules()),
        tuple((name, tensor.shape, tensor.dtype, tensor.requires_grad) for name, tensor in tensors),
        tuple((name, value.shape, value.dtype) for name, value in vars(batch).items() if isinstance(value, Tensor)),
        _optimiser(method),
        (training.steps, training.rounds, training.times, trainer["log_every"], device_of(trainer["accelerator"])),
    )


def twins(training: Training) -> Hashable:
    """The likeness of runs that differ in labels and seeds alone."""
    told = {place: number for place, number in numbers(training.method).items() if place != ("", "seed")}
    return likeness(training), str(told)


def adapters(training: Training) -> Hashable:
    """What is the same in all runs that train adapters of one transformer together. Raises Apart for a run that cannot
    share its transformer."""
    method, trainer = training.method, training.trainer
    _refuse(
        training,
        {
            "it trains more than its policy, or something else": method.trains != ("policy",),
            "its precision is neither 32-true nor bf16-mixed": trainer["precision"] not in ("32-true", "bf16-mixed"),
        },
    )
    model = method.policy.model
    try:
        layers = adapted(model)
    except ValueError as reason:
        raise Apart(str(reason)) from None
    if isinstance(_made(method), torch.optim.LBFGS):
        raise Apart("its optimiser asks for the loss again")
    path = newest_sound(training.stacked)
    step = 0 if path is None else WholeFiles().load_checkpoint(path)["step"]
    form = {key: value for key, value in method.policy.form.items() if key != "scaling"}
    return (
        str(form),
        tuple(weight.data_ptr() for weight in model.parameters() if not weight.requires_grad),
        tuple((name, weight.dtype) for name, weight in model.named_parameters() if weight.requires_grad),
        tuple(layers),
        training.data.n,
        (training.steps, training.rounds, training.times, step, device_of(trainer["accelerator"])),
        (trainer["log_every"], trainer["precision"], trainer["checkpoint_every_s"]),
    )


def _refuse(training: Training, more: dict[str, bool]) -> None:
    """Raise Apart for what trains with no other: what is true of `more`, by the reason, or of every kind of run."""
    method = training.method
    refusals = {
        "it trains nothing": not method.trains,
        "it makes its own examples": method.per_round is not None,
        "it does more than a loss": any(getattr(type(method), hook) is not getattr(Method, hook) for hook in HOOKS),
        "several processes share it": ranks.world() > 1,
        "it goes on from a checkpoint": any((training.folder / "checkpoints").glob("*.ckpt")),
    }
    for reason, holds in (refusals | more).items():
        if holds:
            raise Apart(reason)


def numbers(method: Method) -> Numbers:
    """The numbers in a method's attributes and its parts', its seed among them."""
    return {
        (path, name): value
        for path, module in method.named_modules()
        for name, value in _attributes(module)
        if _numeric(value)
    }


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Its own attributes; not the notes of a memory, which no step takes from another."""
    for name, value in vars(module).items():
        if name not in HELD and not (isinstance(module, Memory) and isinstance(value, Tensor)):
            yield name, value


def _form(path: str, module: nn.Module) -> Hashable:
    """What an attribute is where it is a number, and its value where it is not."""
    found: list[Any] = [path, type(module), module.training]
    for name, value in _attributes(module):
        if _numeric(value):
            found.append((name, len(value) if isinstance(value, tuple) else "number"))
        elif _plain(value):
            found.append((name, str(value)))
        else:
            raise Apart(f"{path}.{name} is a {type(value).__name__}")
    return tuple(found)


def _numeric(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(map(_numeric, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | str)


def _made(method: Method) -> torch.optim.Optimizer:
    try:
        (optimizer,), _ = method.configure_optimizers()
    except Exception as error:  # which the run will raise when it trains alone
        raise Apart(f"its optimiser cannot be made: {error}") from error
    return optimizer


def _optimiser(method: Method) -> Hashable:
    """Its kind and its settings but for the learning rate."""
    optimizer = _made(method)
    if type(optimizer) not in PROPORTIONAL or len(optimizer.param_groups) > 1:
        raise Apart(f"{type(optimizer).__name__} mixes numbers, or has several rates")
    return type(optimizer), str({name: value for name, value in optimizer.defaults.items() if name != "lr"})
