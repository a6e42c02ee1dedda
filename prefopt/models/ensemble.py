"""Several reward models as one conservative judge (Coste et al., 2024, arXiv 2310.02743)."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prefopt.batch import Groups
from prefopt.models.scorer import Scorer, Standardised, mean, moments

FILE = "ensemble.json"
Aggregate = Callable[[Tensor], Tensor]


class Ensemble(nn.Module, Scorer):
    """members: reward models. aggregate: [k, ...] rewards to [...]. unit: log-odds in a unit of its rewards."""

    members: Any

    def __init__(self, members: Sequence[Any], aggregate: Aggregate = mean, unit: float = 1.0) -> None:
        super().__init__()
        self.members, self.aggregate, self.unit = nn.ModuleList(members), aggregate, unit

    def each(self, groups: Groups) -> Tensor:
        """[k, B, n] what every member says."""
        return torch.stack([member.score(groups) for member in self.members])

    def score(self, groups: Groups) -> Tensor:
        return self.aggregate(self.each(groups))

    def table(self, groups: Groups) -> Tensor:
        return self.unit * super().table(groups)

    def standardised(self, samples: Sequence[Groups], aggregate: Aggregate) -> "Ensemble":
        """The same members, each with mean 0 and sd 1 over samples of the reference policy, made one by `aggregate`;
        its log-odds have the mean of their scales.

        Raises PrefoptError where a member's rewards there are not finite, or all the same.
        """
        scale = [moments(member, samples) for member in self.members]
        alike = [Standardised(member, *of) for member, of in zip(self.members, scale, strict=True)]
        return Ensemble(alike, aggregate, _unit(scale))

    def export(self, folder: Path) -> None:
        """Write each member to a folder of its own: `opened` makes it of these."""
        folder.mkdir(parents=True, exist_ok=True)
        for k, member in enumerate(self.members):
            member.export(folder / str(k))
        (folder / FILE).write_text(json.dumps({"members": len(self.members), "shared": False}))


@dataclass(frozen=True)
class Shared:
    """The form of an ensemble of `dimension` heads on one backbone."""

    dimension: int
    gate: ClassVar[bool] = False

    def on(self, embedder: Any, folder: Path | None) -> "Heads":
        return Heads(embedder, self.dimension)

    def held(self, folder: Path | None) -> bool:
        return folder is not None and (folder / FILE).exists()


class Heads(Ensemble):
    """An ensemble whose members are the numbers that one reward model says of a response: embedder, with `embedded`
    [B, n, k]. at, sd: [k] what they are standardised by."""

    at: Tensor
    sd: Tensor

    def __init__(
        self, embedder: Any, k: int, aggregate: Aggregate = mean, scale: Sequence[tuple[float, float]] | None = None
    ) -> None:
        nn.Module.__init__(self)
        self.embedder, self.k, self.aggregate = embedder, k, aggregate
        self.unit = 1.0 if scale is None else _unit(scale)
        at, sd = zip(*(scale or [(0.0, 1.0)] * k), strict=True)
        self.register_buffer("at", torch.tensor(at, dtype=torch.float64), persistent=False)
        self.register_buffer("sd", torch.tensor(sd, dtype=torch.float64), persistent=False)

    @property
    def members(self) -> "list[Head]":
        return [Head(self, i) for i in range(self.k)]

    def each(self, groups: Groups) -> Tensor:
        said = self.embedder.embedded(groups)[0]
        return ((said - self.at.to(said.dtype)) / self.sd.to(said.dtype)).movedim(-1, 0)

    def standardised(self, samples: Sequence[Groups], aggregate: Aggregate) -> Ensemble:
        scale = [moments(member, samples) for member in self.members]
        return Heads(self.embedder, self.k, aggregate, scale).to(self.at.device)

    def export(self, folder: Path) -> None:
        self.embedder.export(folder)
        (folder / FILE).write_text(json.dumps({"members": self.k, "shared": True}))


class Head(Scorer):
    """The i-th member of an ensemble on one backbone."""

    def __init__(self, heads: Heads, i: int) -> None:
        self.heads, self.i = heads, i

    def score(self, groups: Groups) -> Tensor:
        return self.heads.each(groups)[self.i]


def _unit(scale: Sequence[tuple[float, float]]) -> float:
    return sum(sd for _, sd in scale) / len(scale)


def members(reward: Any) -> list[Any]:
    """The reward models that an ensemble is made of, or the one that a reward is."""
    return list(reward.members) if isinstance(reward, Ensemble) else [reward]


class Restarts(nn.Module, Scorer):
    """Ensembles of k members each that learn side by side; to others it is the `best` of them."""

    members: Any
    best: Tensor

    def __init__(self, members: Sequence[Any], k: int) -> None:
        super().__init__()
        self.members, self.k = nn.ModuleList(members), k
        self.register_buffer("best", torch.tensor(0))

    @property
    def chosen(self) -> Ensemble:
        first = int(self.best) * self.k
        return Ensemble(self.members[first : first + self.k])

    def score(self, groups: Groups) -> Tensor:
        return self.chosen.score(groups)

    def export(self, folder: Path) -> None:
        self.chosen.export(folder)


def opened(folder: Path, member: Callable[..., Any]) -> Any:
    """The reward model in `folder`: what `member`, of a folder and a form, opens it as, or an ensemble of such."""
    if not (folder / FILE).exists():
        return member(folder)
    said = json.loads((folder / FILE).read_text())
    if said["shared"]:
        return member(folder, Shared(said["members"]))
    return Ensemble([member(folder / str(k)) for k in range(said["members"])])
