"""Policies and rewards on an exact world: contexts x responses, everything by enumeration, in float64."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prefopt.batch import Groups
from prefopt.datasets.data import Data
from prefopt.engine.sampling import draw
from prefopt.models.scorer import Scorer

Parameters = Callable[[Any], nn.Module]


class Linear(nn.Module):
    """<theta, phi(x, y)> with theta [d], zero at the start."""

    features: Tensor

    def __init__(self, world: Any) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(world.features.shape[-1], dtype=torch.float64))
        self.register_buffer("features", world.features, persistent=False)

    def forward(self) -> Tensor:
        return (self.theta @ self.features.flatten(0, 1).T).view(self.features.shape[:2])  # stacked, five times as fast


class Table(nn.Module):
    """One free number a context and response, zero at the start."""

    def __init__(self, world: Any) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(world.features.shape[:2], dtype=torch.float64))

    def forward(self) -> Tensor:
        return self.values


def taken(values: Tensor, groups: Groups) -> Tensor:
    """[contexts, responses] values at the groups' contexts and responses: [B, n]."""
    place = groups.prompt[:, :1] * values.shape[1] + groups.response[..., 0]
    return values.flatten().gather(0, place.flatten()).view_as(place)


class ExactPolicy(nn.Module):
    """pi(y | x) proportional to ref(y | x) exp(f(x, y)); it starts as the world's reference policy."""

    reference: Tensor

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
    """r(x, y) = f(x, y)."""

    def __init__(self, f: nn.Module) -> None:
        super().__init__()
        self.f = f

    def rewards(self) -> Tensor:
        """[contexts, responses] rewards."""
        return self.f()

    def score(self, groups: Groups) -> Tensor:
        return taken(self.f(), groups)

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

    def reward(self, data: Data, tokenizer: Any, start: Path | None) -> ExactReward:
        return _started(ExactReward(self.parameters(data.world)), start)

    def checksum(self) -> str:
        return ""


def _started(module: nn.Module, start: Path | None) -> Any:
    if start is not None:
        module.load_state_dict(load_file(start / "exact.safetensors"))
    return module
