"""The rankers of an election as a judge: `~method.needs.reward`, then
`+method.needs.reward={_target_: prefopt.models.rankers.Rankers}`."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from prefopt.batch import Groups
from prefopt.datasets.data import Data
from prefopt.engine.elections import places
from prefopt.errors import PrefoptError
from prefopt.models.scorer import Scorer


class Rankers:
    """Those of `dataset=rankings`, bias and all. Raises PrefoptError in a world that has none."""

    world: ClassVar[str] = "exact"

    def judge(self, data: Data, tokenizer: Any) -> Scorer:
        if not hasattr(data.world, "rankings"):
            raise PrefoptError("nobody has ranked the responses of this world", "use dataset=rankings")
        return Ranked(data.world)

    def checksum(self) -> str:
        return ""


class Ranked(Scorer):
    """A member a ranker, whose reward of an item is how many are below it."""

    def __init__(self, world: Any) -> None:
        below = [world.rankings.shape[-1] - 1 - places(each) for each in world.rankings]
        self.below = torch.stack([torch.from_numpy(each) for each in below], 1).double()
        self.stands_apart = torch.from_numpy(world.apart)

    def each(self, groups: Groups) -> Tensor:
        """[k, B, n] what every ranker says."""
        return self.below[:, groups.prompt[:, :1].cpu(), groups.response[..., 0].cpu()].to(groups.prompt.device)

    def score(self, groups: Groups) -> Tensor:
        return self.each(groups).mean(0)

    def apart(self, groups: Groups) -> Tensor:
        """[B, n] whether a response is of the group that the bias is against."""
        return self.stands_apart[groups.prompt[:, :1].cpu(), groups.response[..., 0].cpu()].to(groups.prompt.device)
