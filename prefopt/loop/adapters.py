"""Runs that train adapters of one frozen transformer, and share its forward and backward passes.

What they have in common is the transformer alone: a run's batch, loss, gradient, clip, schedule, optimiser and
checkpoints are its own, and so may be its method.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prefopt import stop
from prefopt.batch import Groups
from prefopt.engine.adapters import Adapters
from prefopt.loop.alike import Apart
from prefopt.loop.checkpoints import WholeFiles, newest_sound
from prefopt.loop.fit import Training
from prefopt.loop.record import check
from prefopt.loop.stack import Plans, Stack
from prefopt.methods.base import Meter
from prefopt.methods.metrics import Metrics
from prefopt.progress import say


class Part(NamedTuple):
    """A micro-batch of run k, whose whole batch has this size."""

    k: int
    batch: Groups
    size: int


class Learnt(NamedTuple):
    """What run k's meter takes of a micro-batch, and the micro-batch's part of the loss."""

    k: int
    metrics: Metrics
    examples: int
    loss: Tensor


class AdapterStack(Stack):
    """K runs, ready to take their steps together. Raises Apart where their losses do not allow it.

    most: how many of them share a pass, fewer once the device has no room for all.
    """

    again = "goes on from here"

    def __init__(self, trainings: Sequence[Training]) -> None:
        super().__init__(trainings)
        self.most = len(trainings)
        self.methods = [training.method.to(self.device) for training in trainings]
        try:
            self.adapters = Adapters([method.policy.model for method in self.methods])
        except ValueError as reason:
            raise Apart(str(reason)) from None
        self._try()
        made = [method.configure_optimizers() for method in self.methods]
        self.optimizers, self.schedulers = ([one for (one,) in each] for each in zip(*made, strict=True))
        for method in self.methods:
            method.meter.to(self.device)
        self._for_each(self._take_up)
        self.saved = time.monotonic()

    def _try(self) -> None:
        """Raise Apart where the losses of two examples each are not those of runs that share a pass."""
        drawn = torch.get_rng_state()
        try:
            self._learn(
                [[Part(k, t.data.batch(np.arange(min(2, len(t.data)))), 2)] for k, t in enumerate(self.trainings)]
            )
            for end in filter(None, self.ends):
                raise end
        except Apart:
            raise
        except Exception as error:
            raise Apart(f"{type(error).__name__}: {error}") from error
        if not torch.equal(drawn, torch.get_rng_state()):
            raise Apart("its loss draws at random")
        self._for_each(self._forget)

    def _take(self, batches: Sequence[np.ndarray], at: int) -> None:
        parts = []
        for k, (training, rows) in enumerate(zip(self.trainings, batches, strict=True)):
            if self.ends[k] is None:
                batch = training.data.batch(rows)
                micro = batch.split(training.method._micro_batch_size)
                parts.append([Part(k, part, len(batch)) for part in micro])
        while True:
            self._for_each(self._forget)
            try:
                learnt = self._learn(parts)
                break
            except torch.OutOfMemoryError:
                self.most = -(-self.most // 2)
                say(f"no room for a pass of all runs at once: from step {self.step + 1} on {self.most} share one")
        self._for_each(lambda k: self._step(k, [one for one in learnt if one.k == k]))

    def _learn(self, parts: Sequence[Sequence[Part]]) -> list[Learnt]:
        """Add up the gradients of all micro-batches. Raises OutOfMemoryError where fewer runs a pass may help."""
        learnt: list[Learnt] = []
        for turn in range(max(map(len, parts))):
            due = [of_one[turn] for of_one in parts if turn < len(of_one)]
            for start in range(0, len(due), self.most):
                some = due[start : start + self.most]
                try:
                    learnt += self._passed(some)
                except Exception as error:
                    if len(some) > 1:
                        raise
                    self.ends[some[0].k] = error
        return learnt

    def _passed(self, parts: Sequence[Part]) -> list[Learnt]:
        """One forward and backward pass."""
        with self._precision():
            logps = self.adapters.logps([part.batch for part in parts], [part.k for part in parts])
            learnt = []
            for part, own in zip(parts, logps, strict=True):
                try:
                    learnt.append(self._loss(part, own))
                except torch.OutOfMemoryError:
                    raise
                except Exception as error:
                    self.ends[part.k] = error
            if learnt:
                torch.stack([one.loss for one in learnt]).sum().backward()
        return learnt

    def _loss(self, part: Part, logps: Tensor) -> Learnt:
        batch, method = part.batch.to(self.device), self.methods[part.k]
        with told(method.policy, batch, logps):
            losses, metrics = method.loss(batch)
        share = losses.sum() / part.size * batch.weight
        return Learnt(part.k, {"loss": losses.detach(), **metrics}, len(batch), share)

    def _step(self, k: int, learnt: Sequence[Learnt]) -> None:
        """What `training_step` does once the gradient is there."""
        method = self.methods[k]
        for one in learnt:
            method.meter.add(one.metrics, one.examples)
        norm = torch.nn.utils.clip_grad_norm_(method.parameters(), method._clip or float("inf"))
        method.meter.add({"grad_norm": norm}, 1)
        self.optimizers[k].step()
        for memory in method._memories:
            memory.learn()
        total = torch.stack([one.loss.detach() for one in learnt]).sum()
        method.meter.step(torch.stack([total.double(), norm.double()]))
        self.schedulers[k].step()

    def _forget(self, k: int) -> None:
        self.methods[k].zero_grad()
        for memory in self.methods[k]._memories:
            memory.clear()

    def _record(self, given: Plans) -> None:
        def record(k: int) -> None:
            self._check(k, given)
            method = self.methods[k]
            lr = self.optimizers[k].param_groups[0]["lr"]
            self.trainings[k].events.write(self.step, method.meter.read() | {"lr": lr})
            for memory in method._memories:
                memory.tell()

        self._for_each(record)

    def _check(self, k: int, given: Plans) -> None:
        training = self.trainings[k]
        check(self.methods[k].meter.steps(), self.step, training.data, given[k], training.folder)

    def _measure(self, k: int) -> None:
        with self._precision():
            super()._measure(k)

    def _save(self, given: Plans) -> None:
        first = self.trainings[0]
        due = time.monotonic() - self.saved >= first.trainer["checkpoint_every_s"]
        if due or stop.asked() or self.step == first.steps:
            self._for_each(lambda k: self._check(k, given))
            self._for_each(self._keep)
            self.saved = time.monotonic()

    def _keep(self, k: int) -> None:
        training = self.trainings[k]
        training.events.flush()
        training.stacked.mkdir(parents=True, exist_ok=True)
        state = {
            "step": self.step,
            "meter": self.methods[k].meter.state(),
            "method": self.methods[k].state_dict(),
            "optimizer": self.optimizers[k].state_dict(),
            "scheduler": self.schedulers[k].state_dict(),
        }
        WholeFiles().save_checkpoint(state, training.stacked / "last.ckpt")

    def _take_up(self, k: int) -> None:
        """Go on from run k's checkpoint, where it has one."""
        path = newest_sound(self.trainings[k].stacked)
        if path is None:
            return
        state = WholeFiles().load_checkpoint(path)
        self.step = state["step"]
        self.methods[k].meter = Meter(**state["meter"])
        self.methods[k].meter.to(self.device)
        self.methods[k].load_state_dict(state["method"], strict=False)
        self.optimizers[k].load_state_dict(state["optimizer"])
        self.schedulers[k].load_state_dict(state["scheduler"])

    def _precision(self) -> AbstractContextManager[Any]:
        half = self.trainings[0].trainer["precision"] == "bf16-mixed"
        return torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext()


@contextmanager
def told(policy: Any, batch: Groups, logps: Tensor) -> Iterator[None]:
    """While entered, the policy knows its log-probs of the batch; whatever else it is asked, and what its reference is
    asked, it computes. Raises Apart where nobody asked."""
    own, asked = policy.logps, []

    def answer(groups: Groups) -> Tensor:
        if groups is not batch or not torch.is_grad_enabled():
            return own(groups)
        asked.append(True)
        return logps

    policy.logps = answer
    try:
        yield
    finally:
        del policy.logps
    if not asked:
        raise Apart("its loss does not ask for the log-probs of its batch")
