"""Best-of-n: sample N responses, keep the one that the reward model likes best (Nakano et al., 2021, arXiv 2112.09332).

Nothing is trained. KL(best-of-n || policy) <= log N - (N - 1)/N. Evaluation measures every n up to N.
"""

import torch
from torch import Tensor

from prefopt.batch import Groups, Prompts
from prefopt.engine.best import favourite, picked
from prefopt.errors import PrefoptError
from prefopt.methods.base import Method
from prefopt.models.ensemble import Aggregate
from prefopt.models.scorer import mean
from prefopt.table import Table


class BestOfN(Method):
    """Args: samples: N. aggregate: of a reward model's members, [k, ...] -> [...].

    Raises PrefoptError where N is less than 1.
    """

    eats = Prompts
    roles = ("policy", "reward")
    trains = ()

    def __init__(self, *, samples: int = 16, aggregate: Aggregate = mean) -> None:
        super().__init__()
        if samples < 1:
            raise PrefoptError(f"method.samples={samples} leaves nothing to choose from", "give at least 1")
        self.samples, self.aggregate = samples, aggregate

    def collect(self, data: Table, round: int) -> None:
        return None

    @torch.no_grad()
    def act(self, prompts: Groups, n: int = 1, generator: torch.Generator | None = None) -> Groups:
        drawn = self.policy.sample(prompts, n * self.samples, generator)
        places = torch.arange(n * self.samples, device=drawn.length.device).view(n, -1)
        rows = [at.expand(len(drawn), -1) for at in places]
        best = torch.stack([favourite(self.reward.score(picked(drawn, at))) for at in rows], -1)
        return picked(drawn, best + places[:, 0])

    def score(self, groups: Groups) -> Tensor:
        return self.reward.score(groups)
