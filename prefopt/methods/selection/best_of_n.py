"""Best-of-n: sample N responses, keep the one that the reward model likes best (Nakano et al., 2021, arXiv 2112.09332).

Nothing is trained. KL(best-of-n || policy) <= log N - (N - 1)/N.
"""

from dataclasses import replace

import torch
from torch import Tensor

from prefopt.batch import Groups, Prompts
from prefopt.engine.best import kl_of_best
from prefopt.methods.base import Method
from prefopt.models.ensemble import Aggregate
from prefopt.models.scorer import mean
from prefopt.table import Table


class BestOfN(Method):
    """Args: samples: N. aggregate: of a reward model's members, [k, ...] -> [...]."""

    eats = Prompts
    roles = ("policy", "reward")
    trains = ()

    def __init__(self, *, samples: int = 16, aggregate: Aggregate = mean) -> None:
        super().__init__()
        self.samples, self.aggregate = samples, aggregate

    @property
    def kl_bound(self) -> float:
        """Nats at most between its answers and the policy."""
        return kl_of_best(self.samples)

    def collect(self, data: Table, round: int) -> None:
        return None

    @torch.no_grad()
    def act(self, prompts: Groups, n: int = 1, generator: torch.Generator | None = None) -> Groups:
        drawn = self.policy.sample(prompts, n * self.samples, generator)
        best = self.reward.score(drawn).view(len(drawn), n, self.samples).argmax(-1)
        best = best + torch.arange(n, device=best.device) * self.samples
        rows = torch.arange(len(drawn), device=best.device)[:, None]
        length = drawn.length[rows, best]
        return replace(drawn, response=drawn.response[rows, best], length=length, mean_length=length.float().mean())

    def score(self, groups: Groups) -> Tensor:
        return self.reward.score(groups)
