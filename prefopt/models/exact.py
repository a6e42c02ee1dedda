"""Policies and rewards on an exact world: contexts x responses, everything by enumeration, in float64."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prefopt.batch import Groups
from prefopt.datasets.data import Data
from prefopt.engine.sampling import draw
from prefopt.errors import PrefoptError
from prefopt.models.ensemble import Shared
from prefopt.models.preference import Form, form_of
from prefopt.models.scorer import Scorer

Parameters = Callable[..., "Function"]
"""Of a world, and of `outputs`: the numbers at a response, None for one."""
EMBEDDED = 0.1
"""Standard deviation of several numbers at the start: at 0 a skew-symmetric form of them has no gradient."""


class Function(nn.Module):
    """f(x, y) of every context and response: a number, or where it has `outputs` that many, along a last axis."""

    def at(self, groups: Groups) -> Tensor:
        """[B, n] f at the groups' contexts and responses."""
        return taken(self(), groups)

    def steps(self, groups: Groups) -> Tensor:
        """[B, n, T] what f is the sum of."""
        return self.at(groups)[..., None]

    def redraw(self, generator: torch.Generator) -> None:
        """Draw what it begins as: members of an ensemble differ in it."""
        raise NotImplementedError


def beginning(shape: Sequence[int], outputs: int | None) -> nn.Parameter:
    """Zeros [*shape], or small random numbers [*shape, outputs]."""
    if outputs is None:
        return nn.Parameter(torch.zeros(*shape, dtype=torch.float64))
    return nn.Parameter(EMBEDDED * torch.randn(*shape, outputs, dtype=torch.float64))


class Linear(Function):
    """<theta, phi(x, y)> with theta [d], zero at the start."""

    features: Tensor

    def __init__(self, world: Any, *, outputs: int | None = None) -> None:
        super().__init__()
        self.theta = beginning(world.features.shape[-1:], outputs)
        self.register_buffer("features", world.features, persistent=False)

    def forward(self) -> Tensor:
        found = self.theta.movedim(0, -1) @ self.features.flatten(0, 1).T  # stacked, five times as fast
        return found.movedim(-1, 0).reshape(*self.features.shape[:2], *self.theta.shape[1:])

    @torch.no_grad()
    def redraw(self, generator: torch.Generator) -> None:
        self.theta.normal_(std=1 / math.sqrt(len(self.theta) + 1), generator=generator)


class Table(Function):
    """One free number a context and response, zero at the start."""

    def __init__(self, world: Any, *, outputs: int | None = None) -> None:
        super().__init__()
        self.values = beginning(world.features.shape[:2], outputs)

    def forward(self) -> Tensor:
        return self.values

    @torch.no_grad()
    def redraw(self, generator: torch.Generator) -> None:
        self.values.normal_(generator=generator)


class Network(Function):
    """A perceptron on phi(x, y): `widths` hidden units a layer, `outputs` numbers, or one."""

    activation: ClassVar[type[nn.Module]] = nn.ReLU
    features: Tensor

    def __init__(self, world: Any, *, widths: Sequence[int] = (32, 32), outputs: int | None = None) -> None:
        super().__init__()
        sizes = [world.features.shape[-1], *widths]
        layers = [nn.Linear(*size, dtype=torch.float64) for size in pairwise(sizes)]
        self.trunk = nn.Sequential(*(part for layer in layers for part in (layer, self.activation())))
        self.head = nn.Linear(sizes[-1], outputs or 1, dtype=torch.float64)
        self.outputs = outputs
        self.register_buffer("features", world.features, persistent=False)

    def forward(self) -> Tensor:
        """[contexts, responses], or with `outputs` that many at each."""
        return self.read(self.trunk(self.features))

    def at(self, groups: Groups) -> Tensor:
        return self.read(self.states(groups))

    def states(self, groups: Groups) -> Tensor:
        """[B, n, width] what the head reads."""
        states: Tensor = self.trunk(self.features[groups.prompt[:, :1], groups.response[..., 0]])
        return states

    def read(self, states: Tensor) -> Tensor:
        """[..., width] -> [...], or [..., outputs]."""
        values: Tensor = self.head(states)
        return values if self.outputs else values[..., 0]

    @torch.no_grad()
    def redraw(self, generator: torch.Generator) -> None:
        """As torch begins a linear layer: uniform within 1 / sqrt(inputs)."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                bound = 1 / math.sqrt(layer.in_features)
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)


class Classifier(Network):
    """A perceptron on phi(x), which no response changes, with one output a response."""

    activation = nn.Tanh

    def __init__(self, world: Any, *, widths: Sequence[int] = (64, 64), outputs: int | None = None) -> None:
        if outputs is not None or not torch.equal(world.features, world.features[:, :1].expand_as(world.features)):
            raise PrefoptError(
                "model=classifier gives each of some classes a score, by features that no response changes",
                "use it with dataset=digits or prototypes, and for other worlds or preference models model=mlp",
            )
        super().__init__(world, widths=widths, outputs=world.features.shape[1])

    def forward(self) -> Tensor:
        return self.read(self.trunk(self.features[:, 0]))

    def at(self, groups: Groups) -> Tensor:
        outputs = self.read(self.trunk(self.features[groups.prompt[:, 0], 0]))
        return outputs.gather(1, groups.response[..., 0])


class Steps(Network):
    """A sum over the steps of a trajectory, each a perceptron on that step alone; elsewhere there is one step.

    features: [C, R, T, d].
    """

    def __init__(self, world: Any, *, widths: Sequence[int] = (64, 64), outputs: int | None = None) -> None:
        features = world.features.unflatten(-1, (getattr(world, "steps", 1), -1))
        super().__init__(SimpleNamespace(features=features), widths=widths, outputs=outputs)

    def forward(self) -> Tensor:
        return super().forward().sum(2)

    def at(self, groups: Groups) -> Tensor:
        return self.steps(groups).sum(2)

    def steps(self, groups: Groups) -> Tensor:
        return super().at(groups)


def taken(values: Tensor, groups: Groups) -> Tensor:
    """[contexts, responses, ...] values at the groups' contexts and responses: [B, n, ...]."""
    place, flat = groups.prompt[:, :1] * values.shape[1] + groups.response[..., 0], values.flatten(0, 1)
    rows = place.view(-1, *[1] * (flat.ndim - 1)).expand(-1, *flat.shape[1:])
    return flat.gather(0, rows).view(*place.shape, *flat.shape[1:])


def everything(contexts: int, responses: int) -> Groups:
    """Every context with all of its responses, in their order."""
    length = torch.ones(contexts, responses, dtype=torch.long)
    return Groups(
        index=torch.arange(contexts),
        prompt=torch.arange(contexts)[:, None],
        prompt_length=length[:, 0],
        response=torch.arange(responses).expand(contexts, -1)[..., None],
        length=length,
        mean_length=torch.ones(()),
    )


class ExactPolicy(nn.Module):
    """pi(y | x) proportional to ref(y | x) exp(f(x, y)); it starts as the world's reference policy."""

    reference: Tensor

    def __init__(self, world: Any, f: Function) -> None:
        super().__init__()
        self.f = f
        self.register_buffer("reference", world.reference, persistent=False)

    def table(self) -> Tensor:
        """[contexts, responses] log-probs in nats."""
        return (self.reference + self.f()).log_softmax(-1)

    def logps(self, groups: Groups) -> Tensor:
        return taken(self.table(), groups)[..., None]

    @torch.no_grad()
    def collisions(self, groups: Groups) -> Tensor:
        agree = (2 * self.table()).logsumexp(-1)
        return agree[groups.prompt[:, :1]][..., None].expand(groups.response.shape)

    @torch.no_grad()
    def sample(self, prompts: Groups, n: int, generator: torch.Generator | None = None) -> Groups:
        rows = self.table()[prompts.prompt[:, 0]][:, None].expand(-1, n, -1)
        response = draw(rows, generator)[..., None]
        length = torch.ones_like(response[..., 0])
        return replace(prompts, response=response, length=length, mean_length=length.float().mean(), reference=None)

    def finished(self, groups: Groups) -> Tensor:
        return torch.ones_like(groups.length, dtype=torch.bool)

    def critic(self) -> "ExactCritic":
        return ExactCritic(self.reference)

    def export(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(self.state_dict()), folder / "exact.safetensors")

    @property
    def form(self) -> dict[str, Any]:
        return {"parameters": type(self.f).__name__}


class ExactCritic(nn.Module):
    """One value a context, zero at the start, for one token is all that is ever chosen in it."""

    def __init__(self, reference: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros_like(reference[:, :1]))

    def forward(self, groups: Groups) -> Tensor:
        return self.values[groups.prompt[:, 0]][..., None].expand(groups.response.shape)


class ExactReward(nn.Module, Scorer):
    """r(x, y) = f(x, y); where f is several numbers, they embed the response."""

    def __init__(self, f: Function) -> None:
        super().__init__()
        self.f = f

    def score(self, groups: Groups) -> Tensor:
        return self.f.at(groups)

    def embedded(self, groups: Groups) -> tuple[Tensor, None]:
        """[B, n, outputs] embeddings; a context has no state."""
        return self.f.at(groups), None

    def steps(self, groups: Groups) -> Tensor:
        return self.f.steps(groups)

    def redraw(self, generator: torch.Generator) -> None:
        """Draw what it begins as."""
        self.f.redraw(generator)

    def export(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(self.state_dict()), folder / "exact.safetensors")


class ExactModel:
    """conf/model/log_linear.yaml, tabular.yaml, mlp.yaml, steps.yaml: `parameters`, `Linear` or `Table`, are those of a
    policy; a reward has the same, or those of `rewards`: `Network` or `Steps` too."""

    world: ClassVar[str] = "exact"

    def __init__(self, *, parameters: Parameters, rewards: Parameters | None = None) -> None:
        self.parameters, self.rewards = parameters, rewards or parameters

    def tokenizer(self, dataset: Any, start: Path | None) -> None:
        return None

    def policy(self, data: Data, tokenizer: Any, start: Path | None) -> ExactPolicy:
        return _started(ExactPolicy(data.world, self.parameters(data.world)), start)

    def reward(self, data: Data, tokenizer: Any, start: Path | None, form: Form | Shared | None = None) -> Scorer:
        form = form or form_of(start)
        if form is None:
            return _started(ExactReward(self.rewards(data.world)), start)
        if form.gate:
            raise PrefoptError(
                "method.gate=true, but a context of an exact world has no state for a gate to read",
                "set method.gate=false, or choose text",
            )
        embedder = ExactReward(self.rewards(data.world, outputs=form.dimension))
        return form.on(_started(embedder, start if form.held(start) else None), start)

    def checksum(self) -> str:
        return ""


def _started(module: nn.Module, start: Path | None) -> Any:
    if start is not None:
        module.load_state_dict(load_file(start / "exact.safetensors"))
    return module
