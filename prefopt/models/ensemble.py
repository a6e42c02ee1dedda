"""Several reward models as one conservative judge (Coste et al., 2024, arXiv 2310.02743)."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prefopt.batch import Groups
from prefopt.models.scorer import Scorer, Standardised, mean, moments

FILE = "ensemble.json"
Aggregate = Callable[[Tensor], Tensor]


class Ensemble(nn.Module, Scorer):
    """members: reward models. aggregate: [k, ...] rewards to [...]."""

    members: Any

    def __init__(self, members: Sequence[Any], aggregate: Aggregate = mean) -> None:
        super().__init__()
        self.members, self.aggregate = nn.ModuleList(members), aggregate

    def each(self, groups: Groups) -> Tensor:
        """[k, B, n] what every member says."""
        return torch.stack([member.score(groups) for member in self.members])

    def score(self, groups: Groups) -> Tensor:
        return self.aggregate(self.each(groups))

    def standardised(self, samples: Sequence[Groups], aggregate: Aggregate) -> "Ensemble":
        """The same members, each with mean 0 and sd 1 over samples of the reference policy, made one by `aggregate`.

        Raises PrefoptError where a member's rewards there are not finite, or all the same.
        """
        return Ensemble([Standardised(member, *moments(member, samples)) for member in self.members], aggregate)

    def export(self, folder: Path) -> None:
        """Write each member to a folder of its own: `opened` makes it of these."""
        folder.mkdir(parents=True, exist_ok=True)
        for k, member in enumerate(self.members):
            member.export(folder / str(k))
        (folder / FILE).write_text(json.dumps({"members": len(self.members)}))


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


def opened(folder: Path, member: Callable[[Path], Any]) -> Any:
    """The reward model in `folder`: what `member` opens it as, or an ensemble of such."""
    if not (folder / FILE).exists():
        return member(folder)
    members = json.loads((folder / FILE).read_text())["members"]
    return Ensemble([member(folder / str(k)) for k in range(members)])
