"""Several reward models as one conservative judge (Coste et al., 2024, arXiv 2310.02743)."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prefopt.batch import Groups
from prefopt.models.scorer import Scorer, Standardised

FILE = "ensemble.json"
Aggregate = Callable[[Tensor], Tensor]


class Ensemble(nn.Module, Scorer):
    """members: on a common scale. aggregate: [k, ...] rewards to [...]; whoever uses them chooses it."""

    def __init__(self, members: Sequence[Standardised], aggregate: Aggregate) -> None:
        super().__init__()
        self.members, self.aggregate = nn.ModuleList(members), aggregate

    def score(self, groups: Groups) -> Tensor:
        members: Any = self.members
        return self.aggregate(torch.stack([member.score(groups) for member in members]))

    def rewards(self) -> Tensor:
        """[contexts, responses] rewards, on an exact world."""
        members: Any = self.members
        return self.aggregate(torch.stack([member.rewards() for member in members]))

    def export(self, folder: Path) -> None:
        """Write each member to a folder of its own, and their scales beside them: `opened` makes it of these."""
        folder.mkdir(parents=True, exist_ok=True)
        members: Any = self.members
        for k, member in enumerate(members):
            member.scorer.export(folder / str(k))
        scales = [{"mean": float(member.mean), "sd": float(member.sd)} for member in members]
        (folder / FILE).write_text(json.dumps(scales))


def opened(folder: Path, member: Callable[[Path], Any], aggregate: Aggregate) -> Ensemble:
    """The ensemble in `folder`; `member` opens one reward model's folder."""
    scales = json.loads((folder / FILE).read_text())
    return Ensemble([Standardised(member(folder / str(k)), **scale) for k, scale in enumerate(scales)], aggregate)
