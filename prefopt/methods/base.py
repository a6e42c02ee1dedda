"""The contract of a method: six hooks on a Lightning module, and a round is an epoch."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor

from prefopt import ranks
from prefopt.batch import Groups
from prefopt.errors import PrefoptError
from prefopt.methods.memory import Memory
from prefopt.methods.metrics import Metrics
from prefopt.models.ensemble import Shared
from prefopt.models.preference import Form
from prefopt.models.scorer import mean
from prefopt.table import Table


class Method(L.LightningModule):
    """One published method. Override what the paper needs, leave the rest.

    eats: the batch that its loss takes; the dataset must give it, or `collect` must make it from what it is given.
    roles: the models that it is given before training, as attributes: policy, reference, reward, judge, ...
    trains: those of them whose weights it changes.
    passes: how often a round goes over what `collect` returned.
    per_round: examples that `collect` makes a round, None where it returns the data that it was given.
    worlds: the kinds of world that it runs in: text, exact.
    coupled: whether the loss of an example depends on others of its batch: then neither processes nor micro-batches may
        share one.
    whole_laws: whether it needs whole next-token laws of the reference, which no cache holds.
    least_rounds: fewer do nothing that a simpler method does not.
    maximises: whether it maximises the reward that it is given, made one.
    aggregate: how the rewards [k, ...] of the members of its reward model, where that has several, are made one.
    """

    eats: ClassVar[type[Groups]]
    roles: tuple[str, ...] = ("policy",)
    trains: ClassVar[tuple[str, ...]] = ("policy",)
    passes: int = 1
    per_round: int | None = None
    worlds: ClassVar[frozenset[str]] = frozenset({"text", "exact"})
    coupled: bool = False
    whole_laws: ClassVar[bool] = False
    least_rounds: int = 1
    maximises: ClassVar[bool] = True
    aggregate: Callable[[Tensor], Tensor] = staticmethod(mean)
    policy: Any
    reference: Any
    reward: Any

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False
        self.seed = 0
        self._given: Table | None = None
        self.meter = Meter()

    @property
    def rows(self) -> np.ndarray | None:
        """Rows of what `collect` returned that this round goes through, in this order; None: all, shuffled."""
        return None

    @property
    def form(self) -> Form | Shared | None:
        """Of the preference model, or the ensemble on one backbone, that it trains; None where of nothing of the
        kind."""
        return None

    def collect(self, data: Table, round: int) -> Table | None:
        """What this round trains on: the data as they are (offline), own samples (online), None (no gradient)."""
        return data

    def loss(self, batch: Any) -> tuple[Tensor, Metrics]:
        """Per-example losses [B] in nats, and detached metrics ([B] or scalar)."""
        raise NotImplementedError(f"{type(self).__name__} trains nothing by gradient")

    def finish(self, round: int) -> None:
        """After the round: M-step, reference refresh, closed form, solver."""

    def act(self, prompts: Groups, n: int = 1, generator: torch.Generator | None = None) -> Groups:
        """What it would answer: n responses to each prompt."""
        return self.policy.sample(prompts, n, generator)

    def score(self, groups: Groups) -> Tensor:
        """The reward that it implies: [B, n]."""
        raise NotImplementedError(f"{type(self).__name__} implies no reward")

    def weigh(self, batch: Any) -> Tensor | None:
        """How much it relies on each label, [B] the probability that it is right, or on each token of the responses,
        [B, n, T]; None where it trusts all alike."""
        return None

    def reference_logps(self, groups: Groups) -> Tensor:
        """[B, n, T] log-probs under the frozen reference: the cached ones, or computed.

        Raises PrefoptError where the reference was only cached, and not for these responses.
        """
        if groups.reference is not None:
            return groups.reference
        if self.reference is None:
            raise PrefoptError(
                "the reference log-probs of these responses are not cached", "use method.needs.reference=copy"
            )
        with torch.no_grad():
            return self.reference.logps(groups)

    def generator(self, *key: int) -> torch.Generator:
        """Randomness that is a pure function of the run's seed and `key`."""
        mixed = np.random.SeedSequence([self.seed, *key]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(mixed) & (2**63 - 1))

    def prepare(
        self,
        cast: Mapping[str, Any],
        *,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Callable[[int], float],
        micro_batch_size: int | None,
        clip: float | None,
        seed: int,
        data: Table | None = None,
    ) -> None:
        """Take the roles and what training needs; `schedule` gives the factor on the learning rate at a step, `data` is
        what `collect` will be given."""
        missing = [role for role in self.roles if role not in cast]
        if missing:
            raise PrefoptError(
                f"{type(self).__name__} needs the role {missing[0]}, which method.needs does not fill",
                f"add needs.{missing[0]} to the method's YAML",
            )
        for role in self.roles:
            setattr(self, role, cast[role])
            if role not in self.trains and isinstance(cast[role], torch.nn.Module):
                cast[role].requires_grad_(False)
        self._optimizer, self._schedule = optimizer, schedule
        self._micro_batch_size, self._clip, self.seed, self._given = micro_batch_size, clip, seed, data
        self._extend()
        self._memories = [part for part in self.modules() if isinstance(part, Memory)]
        if data is not None:
            for memory in self._memories:
                memory.begin(data)

    def _extend(self) -> None:
        """Make the modules that it trains beside its roles, where their sizes depend on the roles."""

    def training_step(self, batch: Groups, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        seen: list[Tensor] = []

        def closure() -> Tensor:
            optimizer.zero_grad()
            for memory in self._memories:
                memory.clear()
            total = torch.zeros((), device=self.device)
            parts = list(batch.split(self._micro_batch_size))
            if self._sharded:  # gathering weights and scattering gradients takes all processes, each time
                passes = max(ranks.gathered(len(parts)))
                parts += [replace(parts[-1], weight=0.0)] * (passes - len(parts))
            for part in parts:
                losses, metrics = self.loss(part)
                share = losses.sum() / len(batch) * part.weight
                with nullcontext() if part is parts[-1] else self._gradients_stay_here():
                    self.manual_backward(share)
                total = total + share.detach()
                if part.weight:
                    self.meter.add({"loss": losses.detach(), **metrics}, len(part))
            norm = self._clipped(self._clip or float("inf"))
            self.meter.add({"grad_norm": norm}, 1)
            total = ranks.mean(total)
            seen.append(torch.stack([total.double(), norm.double()]))
            return total

        optimizer.step(closure)
        for memory in self._memories:
            memory.learn()
        self.meter.step(seen[0])
        scheduler: Any = self.lr_schedulers()
        scheduler.step()

    def _clipped(self, most: float) -> Tensor:
        """Scale the gradient down to a norm of at most `most`; the norm that it had."""
        return self._clipped_part(self, most)

    def _clipped_part(self, part: torch.nn.Module, most: float) -> Tensor:
        norm: Any = torch.nn.utils.clip_grad_norm_(part.parameters(), most)
        return norm.full_tensor() if self._sharded else norm

    def _gradients_stay_here(self) -> AbstractContextManager[Any]:
        """While entered, processes add up their gradients each for itself."""
        strategy: Any = self.trainer.strategy
        return strategy.block_backward_sync() if ranks.world() > 1 else nullcontext()

    def configure_optimizers(self) -> Any:
        """One optimiser over all that is trained; a submodule with `optimizer_options`, a mapping such as
        {"lr": 2e-3, "weight_decay": 0.01}, is a parameter group of its own, with these in the place of the run's."""
        apart = [part for part in self.modules() if hasattr(part, "optimizer_options")]
        theirs = {p for part in apart for p in part.parameters()}
        rest = [p for p in self.parameters() if p.requires_grad and p not in theirs]
        groups = [{"params": list(part.parameters()), **part.optimizer_options} for part in apart]
        optimizer = self._optimizer([{"params": rest}, *groups] if groups else rest)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._schedule)
        return [optimizer], [scheduler]

    def on_train_epoch_end(self) -> None:
        self.finish(self.current_epoch)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """All but the frozen roles and parameters, which a resumed run casts again."""
        state = super().state_dict(*args, **kwargs)
        roles = tuple(f"{role}." for role in self.roles if role not in self.trains)
        frozen = {k for k, p in self.named_parameters(remove_duplicate=False) if not p.requires_grad}
        return {k: v for k, v in state.items() if k not in frozen and not k.startswith(roles)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["rng"] = ranks.gathered(torch.get_rng_state())
        checkpoint["meter"] = ranks.gathered(self.meter.state())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        rank = ranks.place().rank
        self._rng = checkpoint["rng"][rank]
        self.meter = Meter(**checkpoint["meter"][rank])

    def on_train_start(self) -> None:
        if (state := self.__dict__.pop("_rng", None)) is not None:
            torch.set_rng_state(state)
        self.meter.to(self.device)
        self._sharded = any(hasattr(p, "full_tensor") for p in self.parameters())


class Meter:
    """Means of metrics over the steps since they were last read, kept on the device and read in one go.

    They are over the whole batches, whatever this process's part of them is.
    """

    def __init__(
        self, names: list[list[str]] | None = None, sums: list[Tensor] | None = None, counts: list[int] | None = None
    ) -> None:
        self._sums = {tuple(group): total for group, total in zip(names or [], sums or [], strict=True)}
        self._counts = {tuple(group): count for group, count in zip(names or [], counts or [], strict=True)}
        self._steps: list[Tensor] = []

    def to(self, device: torch.device) -> None:
        self._sums = {group: total.to(device) for group, total in self._sums.items()}

    def add(self, metrics: Metrics, size: int) -> None:
        """metrics: [size] or scalar each; all are added up in one operation."""
        group = tuple(metrics)
        total = torch.stack([value.detach().expand(size) for value in metrics.values()]).double().sum(1)
        self._sums[group] = self._sums[group] + total if group in self._sums else total
        self._counts[group] = self._counts.get(group, 0) + size

    @property
    def named(self) -> list[tuple[str, int]]:
        """Every metric, and over how many values its sum is."""
        return [(name, self._counts[group]) for group in self._sums for name in group]

    @property
    def totals(self) -> Tensor:
        """[metrics] the sums, in the order of `named`."""
        return torch.cat(list(self._sums.values()))

    def step(self, seen: Tensor) -> None:
        """seen: [2] the step's loss and gradient norm."""
        self._steps.append(seen)

    def steps(self) -> list[tuple[float, float]]:
        """Loss and gradient norm of every step since the last reading; one synchronisation."""
        return [(loss, norm) for loss, norm in torch.stack(self._steps).tolist()] if self._steps else []

    def read(self) -> dict[str, float]:
        """The means since the last reading; one synchronisation."""
        if not self._sums:
            return {}
        values, names = self.totals.tolist(), self.named
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for (name, count), value in (
            pair for of_one in ranks.gathered(list(zip(names, values, strict=True))) for pair in of_one
        ):
            sums[name], counts[name] = sums.get(name, 0.0) + value, counts.get(name, 0) + count
        self.clear()
        return {name: total / counts[name] for name, total in sums.items()}

    def clear(self) -> None:
        """Forget what was added since the last reading."""
        self._sums, self._counts, self._steps = {}, {}, []

    def state(self) -> dict[str, Any]:
        return {
            "names": [list(group) for group in self._sums],
            "sums": [total.cpu() for total in self._sums.values()],
            "counts": list(self._counts.values()),
        }
