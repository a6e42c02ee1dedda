"""Policies and rewards on an exact world: contexts x responses, everything by enumeration, in float64."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prefopt.batch import Groups
from prefopt.datasets.data import Data
from prefopt.engine.sampling import draw
from prefopt.errors import PrefoptError
from prefopt.models.preference import Form, Preference, form_of
from prefopt.models.scorer import Scorer

Parameters = Callable[..., nn.Module]
"""Of a world, and of `width`, the numbers a response; None: one, without an axis of its own."""


EMBEDDED = 0.1
"""Standard deviation of embeddings at the start: at 0 a skew-symmetric form of them has no gradient."""


def beginning(shape: Sequence[int], width: int | None) -> nn.Parameter:
    """Zeros [*shape] for one number a response, small random numbers [*shape, width] for `width` of them."""
    if width is None:
        return nn.Parameter(torch.zeros(*shape, dtype=torch.float64))
    return nn.Parameter(EMBEDDED * torch.randn(*shape, width, dtype=torch.float64))


class Linear(nn.Module):
    """<theta, phi(x, y)> with theta [d], zero at the start; or `width` such numbers, theta [d, width]."""

    features: Tensor

    def __init__(self, world: Any, width: int | None = None) -> None:
        super().__init__()
        self.theta = beginning(world.features.shape[-1:], width)
        self.register_buffer("features", world.features, persistent=False)

    def forward(self) -> Tensor:
        found = self.theta.movedim(0, -1) @ self.features.flatten(0, 1).T  # stacked, five times as fast
        return found.movedim(-1, 0).reshape(*self.features.shape[:2], *self.theta.shape[1:])


class Table(nn.Module):
    """One free number a context and response, zero at the start; or `width` such numbers."""

    def __init__(self, world: Any, width: int | None = None) -> None:
        super().__init__()
        self.values = beginning(world.features.shape[:2], width)

    def forward(self) -> Tensor:
        return self.values


class Network(nn.Module):
    """A layer of `hidden` units on the features, and a number or `width` of them on top."""

    features: Tensor

    def __init__(self, world: Any, width: int | None = None, *, hidden: int = 32) -> None:
        super().__init__()
        self.width, inputs = width, world.features.shape[-1]
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, width or 1)).double()
        self.register_buffer("features", world.features, persistent=False)

    def forward(self) -> Tensor:
        found: Tensor = self.layers(self.features)
        return found[..., 0] if self.width is None else found


def taken(values: Tensor, groups: Groups) -> Tensor:
    """[contexts, responses, ...] values at the groups' contexts and responses: [B, n, ...]."""
    place = groups.prompt[:, :1] * values.shape[1] + groups.response[..., 0]
    flat = values.flatten(0, 1)
    rows = place.view(-1, *[1] * (flat.ndim - 1)).expand(-1, *flat.shape[1:])
    return flat.gather(0, rows).view(*place.shape, *flat.shape[1:])


def enumerated(contexts: Tensor, responses: int) -> Groups:
    """These contexts [B] with every one of their responses."""
    every = torch.arange(responses, device=contexts.device)[None, :, None].expand(len(contexts), -1, -1)
    one = torch.ones_like(contexts)
    return Groups(
        index=contexts,
        prompt=contexts[:, None].long(),
        prompt_length=one,
        response=every,
        length=torch.ones_like(every[..., 0]),
        mean_length=torch.tensor(1.0),
    )


class ExactPolicy(nn.Module):
    """pi(y | x) proportional to ref(y | x) exp(f(x, y)); it starts as the world's reference policy."""

    def __init__(self, world: Any, f: nn.Module) -> None:
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

    def export(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(self.state_dict()), folder / "exact.safetensors")

    @property
    def form(self) -> dict[str, Any]:
        return {"parameters": type(self.f).__name__}


class ExactReward(nn.Module, Scorer):
    """r(x, y) = f(x, y); where f has several numbers a response, they are its embedding."""

    def __init__(self, f: nn.Module) -> None:
        super().__init__()
        self.f = f

    def rewards(self) -> Tensor:
        """[contexts, responses] rewards."""
        return self.f()

    def score(self, groups: Groups) -> Tensor:
        return taken(self.f(), groups)

    def embedded(self, groups: Groups) -> tuple[Tensor, None]:
        """[B, n, width] embeddings; a context has no state."""
        return taken(self.f(), groups), None

    def export(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(self.state_dict()), folder / "exact.safetensors")


class ExactModel:
    """conf/model/log_linear.yaml, tabular.yaml: `parameters` is `Linear` or `Table`."""

    world: ClassVar[str] = "exact"

    def __init__(self, *, parameters: Parameters) -> None:
        self.parameters = parameters

    def tokenizer(self, dataset: Any, start: Path | None) -> None:
        return None

    def policy(self, data: Data, tokenizer: Any, start: Path | None) -> ExactPolicy:
        return _started(ExactPolicy(data.world, self.parameters(data.world)), start)

    def reward(
        self, data: Data, tokenizer: Any, start: Path | None, form: Form | None = None
    ) -> ExactReward | Preference:
        form = form or form_of(start)
        if form is None:
            return _started(ExactReward(self.parameters(data.world)), start)
        if form.gate:
            raise PrefoptError(
                "method.gate=true, but a context of an exact world has no state for a gate to read",
                "set method.gate=false, or choose text",
            )
        return Preference(_started(ExactReward(self.parameters(data.world, form.dimension)), start), form)

    def checksum(self) -> str:
        return ""


def _started(module: nn.Module, start: Path | None) -> Any:
    if start is not None:
        module.load_state_dict(load_file(start / "exact.safetensors"))
    return module
