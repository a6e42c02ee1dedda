"""Runs on exact worlds that train as one: every tensor has a leading axis of runs, and no step has a loop over them.

The method's own loss is traced once, under `vmap` and `grad`, and every step replays the trace. Numbers that differ
between the methods, such as beta, are tensors along that axis. Each run writes what it would alone, but a checkpoint:
one that is stopped begins anew, after seconds.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map

from prefopt.loop.alike import Apart, Numbers, numbers
from prefopt.loop.fit import Training
from prefopt.loop.record import check
from prefopt.loop.stack import Plans, Stack
from prefopt.methods.base import Meter, Method
from prefopt.methods.memory import Memory

Tensors = dict[str, Tensor]


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


class ExactStack(Stack):
    """K runs that are alike, ready to take their steps together. Raises Apart where their loss cannot be traced so."""

    totals: Tensor
    seen: list[Tensor]

    def __init__(self, trainings: Sequence[Training]) -> None:
        super().__init__(trainings)
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
        self.replay = self._traced()
        self._forget()

    def _each_run(self, values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self.device)

    def _begin(self, plans: Plans) -> None:
        self.given = self._batches(plans)

    def _batches(self, plans: Plans) -> Tensors:
        """What the loss reads of a round's batches: [steps, K, B, ...]."""
        first_rows = len(self.trainings[0].data) * np.arange(len(plans))
        rows = torch.from_numpy(np.array(plans) + first_rows[:, None, None]).transpose(0, 1).to(self.device)

        def batched(name: str) -> Tensor:
            taken = self.columns[name].index_select(0, rows.flatten())
            return taken.view(*rows.shape, *taken.shape[1:])

        given = {name: batched(name) for name in self.columns if name not in self.unread}
        if "mean_length" not in self.unread:
            given["mean_length"] = batched("length").double().mean((-2, -1)).float()
        return given

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

        example = {name: values[0] for name, values in self._batches(self._plans(0)).items()}
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

    @torch.no_grad()
    def _take(self, batches: Sequence[np.ndarray], at: int) -> None:
        """At the rate 1 the optimiser says how far to go; each run goes its own share of it."""
        batch = self.unread | {name: values[at] for name, values in self.given.items()}
        rate = self.rates[self.step]
        clipped, sums, seen, remembered = self.replay(self.weights, self.state, self.numbers, self.clip, batch)
        before = {name: weight.clone() for name, weight in self.weights.items()}
        for name, weight in self.weights.items():
            weight.grad = clipped[name]
        self.optimizer.step()
        for name, weight in self.weights.items():
            weight.copy_(torch.lerp(before[name], weight, rate.view(-1, *[1] * (weight.ndim - 1))))
        self.state |= remembered
        self.totals = self.totals + sums
        self.seen.append(seen)

    def _record(self, given: Plans) -> None:
        seen, taken = torch.stack(self.seen, 1).tolist(), len(self.seen)
        totals, rates = self.totals.tolist(), self.rates[self.step].tolist()
        remembering = bool(self.shares[0].remembered())

        def record(k: int) -> None:
            training = self.trainings[k]
            check(seen[k], self.step, training.data, given[k], training.folder)
            means = {name: total / (taken * count) for (name, count), total in zip(self.named, totals[k], strict=True)}
            training.events.write(self.step, means | {"lr": rates[k]})
            if remembering:
                self._settle(k)
                for memory in self.shares[k].memories:
                    memory.tell()

        self._for_each(record)
        self._forget()

    def _forget(self) -> None:
        self.totals, self.seen = self._each_run(0.0), []

    def _settle(self, k: int) -> None:
        share = self.shares[k]
        for name, tensor in {**share.trained(), **share.remembered()}.items():
            tensor.detach().copy_((self.weights | self.state)[name][k])


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
