"""Runs on exact worlds that train as one: every tensor has a leading axis of runs, and no step has a loop over them.

The method's own loss is traced once, under `vmap` and `grad`, and every step replays the trace. Numbers that differ
between the methods, such as beta, are tensors along that axis. Each run writes what it would alone, but a checkpoint:
one that is stopped begins anew, after seconds.
"""

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map

from prefopt import stop
from prefopt.engine.loader import Loader
from prefopt.errors import Interrupted
from prefopt.loop.alike import Apart, Numbers, likeness, numbers
from prefopt.loop.fit import Training, device_of, fit
from prefopt.loop.record import check, evaluations
from prefopt.methods.base import Meter, Method
from prefopt.methods.memory import Memory
from prefopt.progress import bar, say

Tensors = dict[str, Tensor]


def fit_together(trainings: Sequence[Training]) -> list[Exception | None]:
    """Train them all, those that are alike as one; what each would have raised alone, None where nothing."""
    ends: dict[int, Exception | None] = {}
    reasons: dict[int, str] = {}
    for key in (likeness, _twins):
        for members in _groups(trainings, [k for k in range(len(trainings)) if k not in ends], key, reasons):
            try:
                stack = Stack([trainings[k] for k in members])
            except Apart as reason:
                reasons |= dict.fromkeys(members, str(reason))
            else:
                ends |= zip(members, _fitted(stack), strict=True)
    apart = [k for k in range(len(trainings)) if k not in ends]
    if apart and len(trainings) > 1:
        first, why = trainings[apart[0]].folder.name, reasons.get(apart[0], "no other is like it")
        say(f"{len(apart)} of {len(trainings)} runs train alone; {first}: {why}")
    return [ends[k] if k in ends else _alone(training) for k, training in enumerate(trainings)]


def _twins(training: Training) -> Hashable:
    """The likeness of runs that differ in labels and seeds alone."""
    told = {place: number for place, number in numbers(training.method).items() if place != ("", "seed")}
    return likeness(training), str(told)


def _groups(
    trainings: Sequence[Training],
    members: Sequence[int],
    key: Callable[[Training], Hashable],
    reasons: dict[int, str],
) -> list[list[int]]:
    """The members of every group of two or more that are alike; why others are in none is written to `reasons`."""
    found: dict[Hashable, list[int]] = {}
    for k in members:
        try:
            found.setdefault(key(trainings[k]), []).append(k)
        except Apart as reason:
            reasons[k] = str(reason)
    return [group for group in found.values() if len(group) > 1]


def _fitted(stack: "Stack") -> list[Exception | None]:
    try:
        return stack.fit()
    except Exception as error:
        return [end or error for end in stack.ends]


def _alone(training: Training) -> Exception | None:
    try:
        stop.check()
        fit(training)
    except Exception as error:
        return error
    return None


class Share(nn.Module):
    """One run's part of a step, as a function of its weights, buffers and batch."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self.memories = [part for part in method.modules() if isinstance(part, Memory)]

    def forward(self, batch: Any) -> tuple[Tensor, Meter, Tensors]:
        """The batch's loss, what the run's meter takes of it, and the buffers as the memories leave them."""
        for memory in self.memories:
            memory.clear()
        losses, metrics = self.method.loss(batch)
        meter = Meter()
        meter.add({"loss": losses, **metrics}, len(batch))
        for memory in self.memories:
            memory.learn()
        return losses.sum() / len(batch), meter, self.remembered()

    def remembered(self) -> Tensors:
        """The memories' buffers."""
        owned = {id(buffer) for memory in self.memories for buffer in memory.buffers()}
        return {name: buffer for name, buffer in self.named_buffers() if id(buffer) in owned}

    def trained(self) -> Tensors:
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


class Stack:
    """K runs that are alike, ready to take their steps together. Raises Apart where their loss cannot be traced so."""

    totals: Tensor
    seen: list[Tensor]

    def __init__(self, trainings: Sequence[Training]) -> None:
        self.trainings = trainings
        self.device = device_of(trainings[0].trainer["accelerator"])
        methods = [training.method.to(self.device) for training in trainings]
        self.shares = [Share(method) for method in methods]
        weights, buffers = stack_module_state(self.shares)
        trained = self.shares[0].trained()
        self.weights = {name: nn.Parameter(weights[name].detach()) for name in trained}
        self.state = {name: w.detach() for name, w in weights.items() if name not in trained} | buffers
        self.numbers = _differing([numbers(method) for method in methods], self.device)
        self.clip = self._each_run([method._clip or float("inf") for method in methods])
        rates = [method.configure_optimizers()[0][0].defaults["lr"] for method in methods]
        factors = [[method._schedule(step) for method in methods] for step in range(trainings[0].steps + 1)]
        self.rates = self._each_run(factors) * self._each_run(rates)
        self.optimizer = methods[0]._optimizer(list(self.weights.values()), lr=1.0)
        wholes = [training.data.batch(np.arange(len(training.data))) for training in trainings]
        self.kind = type(wholes[0])
        self.columns = {
            name: torch.cat([getattr(whole, name) for whole in wholes]).to(self.device)
            for name, value in vars(wholes[0]).items()
            if isinstance(value, Tensor) and value.ndim
        }
        self.unread: Tensors = {}
        self.step = self._traced()
        self.ends: list[Exception | None] = [None] * len(trainings)
        self._forget()

    def fit(self) -> list[Exception | None]:
        """Take all steps; what each run would have raised alone."""
        first = self.trainings[0]
        measured, steps, every = evaluations(first.steps, first.times), first.steps, first.trainer["log_every"]
        self._for_each(lambda k: self.trainings[k].events.rewind(0))
        step = 0
        with stop.heeded(), bar(f"{len(self.trainings)} runs as one", steps) as update, torch.no_grad():
            for round in range(first.rounds):
                plans, given = self._round(round)
                for batch in range(len(plans[0])):
                    read = {name: values[batch] for name, values in given.items()}
                    self._take(self.unread | read, self.rates[step])
                    step += 1
                    if step % every == 0 or batch + 1 == len(plans[0]):
                        self._record(step, [plan[: batch + 1] for plan in plans])
                    if step in measured:
                        self._measure(step)
                    if stop.asked():
                        self._interrupt(step)
                    if all(self.ends):
                        return self.ends
                    update()
        self._for_each(self._settle)
        return self.ends

    def _each_run(self, values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self.device)

    def _round(self, round: int) -> tuple[list[list[np.ndarray]], Tensors]:
        """Each run's plan of a round, and what the loss reads of its batches: [steps, K, B, ...]."""
        plans = [
            Loader(
                training.data,
                batch_size=training.batch_size,
                seed=training.seed,
                round=round,
                passes=training.method.passes,
                mixed=training.method.coupled,
            ).plan
            for training in self.trainings
        ]
        first_rows = len(self.trainings[0].data) * np.arange(len(plans))
        rows = torch.from_numpy(np.array(plans) + first_rows[:, None, None]).transpose(0, 1).to(self.device)

        def batched(name: str) -> Tensor:
            taken = self.columns[name].index_select(0, rows.flatten())
            return taken.view(*rows.shape, *taken.shape[1:])

        given = {name: batched(name) for name in self.columns if name not in self.unread}
        if "mean_length" not in self.unread:
            given["mean_length"] = batched("length").double().mean((-2, -1)).float()
        return plans, given

    @torch.no_grad()
    def _traced(self) -> Callable[..., Any]:
        """A step of all runs, from weights, state, numbers, clips and batches, each with the leading axis K, to clipped
        gradients, sums for the meter [K, metrics], loss and gradient norm [K, 2], and memories."""
        share, method = self.shares[0], self.trainings[0].method
        kind: Any = self.kind

        def loss(weights: Tensors, state: Tensors, told: Any, batch: Tensors) -> tuple[Tensor, Any]:
            with _told(method, told):
                value, meter, remembered = functional_call(share, weights | state, (kind(**batch),))
            self.named = [*meter.named, ("grad_norm", 1)]
            return value, (meter.totals, remembered)

        def one(weights: Tensors, state: Tensors, told: Any, clip: Tensor, batch: Tensors) -> Any:
            gradients, (value, (sums, remembered)) = grad_and_value(loss, has_aux=True)(weights, state, told, batch)
            norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
            shrink = (clip / (norm + 1e-6)).clamp(max=1.0)
            clipped = {name: gradient * shrink for name, gradient in gradients.items()}
            return clipped, torch.cat([sums, norm.double()[None]]), torch.stack([value, norm]), remembered

        example = {name: values[0] for name, values in self._round(0)[1].items()}
        before = numbers(method)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of batching rules that are slow
                step = make_fx(vmap(one))(self.weights, self.state, self.numbers, self.clip, example)
        except Exception as error:
            raise Apart(f"{type(error).__name__}: {error}") from error
        finally:
            for memory in share.memories:
                memory.clear()
        if numbers(method) != before:
            raise Apart("its loss counts for itself")
        step.graph.eliminate_dead_code()
        step.recompile()
        inputs = [node for node in step.graph.nodes if node.op == "placeholder"][-len(example) :]
        self.unread = {name: example[name] for name, node in zip(example, inputs, strict=True) if not node.users}
        return step

    def _take(self, batch: Tensors, rate: Tensor) -> None:
        """One step of all runs. At the rate 1 the optimiser says how far to go; each run goes its own share of it."""
        clipped, sums, seen, remembered = self.step(self.weights, self.state, self.numbers, self.clip, batch)
        before = {name: weight.clone() for name, weight in self.weights.items()}
        for name, weight in self.weights.items():
            weight.grad = clipped[name]
        self.optimizer.step()
        for name, weight in self.weights.items():
            weight.copy_(torch.lerp(before[name], weight, rate.view(-1, *[1] * (weight.ndim - 1))))
        self.state |= remembered
        self.totals = self.totals + sums
        self.seen.append(seen)

    def _record(self, step: int, given: Sequence[Sequence[np.ndarray]]) -> None:
        """Write every run's means since the last time, or end it where one is not finite."""
        seen, taken = torch.stack(self.seen, 1).tolist(), len(self.seen)
        totals, rates = self.totals.tolist(), self.rates[step].tolist()
        remembering = bool(self.shares[0].remembered())

        def record(k: int) -> None:
            training = self.trainings[k]
            check(seen[k], step, training.data, given[k], training.folder)
            means = {name: total / (taken * count) for (name, count), total in zip(self.named, totals[k], strict=True)}
            training.events.write(step, means | {"lr": rates[k]})
            if remembering:
                self._settle(k)
                for memory in self.shares[k].memories:
                    memory.tell()

        self._for_each(record)
        self._forget()

    def _forget(self) -> None:
        self.totals, self.seen = self._each_run(0.0), []

    def _measure(self, step: int) -> None:
        def measure(k: int) -> None:
            self._settle(k)
            self.trainings[k].events.write(step, self.trainings[k].measure())

        self._for_each(measure)

    def _settle(self, k: int) -> None:
        """Give run k's method its weights and memories."""
        share = self.shares[k]
        for name, tensor in {**share.trained(), **share.remembered()}.items():
            tensor.detach().copy_((self.weights | self.state)[name][k])

    def _interrupt(self, step: int) -> None:
        error = Interrupted(f"stopped by {stop.asked()} at step {step}", "the same command begins anew")
        self.ends = [end or error for end in self.ends]

    def _for_each(self, do: Callable[[int], None]) -> None:
        """Do this for every run that has not ended; what it raises is the run's end."""
        for k, end in enumerate(self.ends):
            if end is None:
                try:
                    do(k)
                except Exception as error:
                    self.ends[k] = error


def _differing(told: Sequence[Numbers], device: torch.device) -> Any:
    """The numbers in which the runs differ, as tensors [K]."""

    def stacked(*values: float) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=device)

    return {
        place: tree_map(stacked, *values)
        for place in told[0]
        if len(set(values := [numbers[place] for numbers in told])) > 1
    }


@contextmanager
def _told(method: Method, numbers: Numbers) -> Iterator[None]:
    """While entered, the method and its parts have these numbers."""
    before = {(path, name): getattr(method.get_submodule(path), name) for path, name in numbers}
    try:
        for (path, name), value in numbers.items():
            setattr(method.get_submodule(path), name, value)
        yield
    finally:
        for (path, name), value in before.items():
            setattr(method.get_submodule(path), name, value)
