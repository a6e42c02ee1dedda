"""Subset selection by biased rankings (Boehmer, Celis, Huang, Mehrotra and Vishnoi, ICML 2023, arXiv 2306.09835).

    S = argmax { F^(S) : |S| = n, |S and G2| >= floor(least n) }

F^: a multiwinner rule on the rankings, which are biased against the group G2. The bound mends the choice where the bias
leaves the order within each group nearly as it was; whether it does, depends on the rule. The rankers are the members
of a judge, such as an ensemble; each ranks `samples` responses of the policy. G2 is whom the judge says it is, or else
the responses shorter than those to the same prompt are on average.
"""

import numpy as np
import torch
from torch import Tensor

from prefopt.batch import Groups, Prompts
from prefopt.engine.best import picked
from prefopt.engine.elections import Rule, bound, chosen
from prefopt.errors import PrefoptError
from prefopt.methods.base import Method
from prefopt.models.scorer import finite
from prefopt.table import Table

TIES = 0
"""What it draws for itself."""


class SubsetSelection(Method):
    """Args:
        rule: F. samples: responses to choose from. least: share of the subset that is of G2 at least.
        size: of the subset that the method is measured by where the world is one of elections.
    Raises PrefoptError where a share is none, and where no subset meets the bound.
    """

    eats = Prompts
    roles = ("policy", "reward")
    trains = ()
    maximises = False

    def __init__(self, *, rule: Rule, samples: int = 16, size: int = 6, least: float = 0.0) -> None:
        super().__init__()
        if not 0 <= least <= 1:
            raise PrefoptError(f"method.least={least} is no share of a subset", "give a number from 0 to 1")
        for key, value in (("size", size), ("samples", samples)):
            if value < 1:
                raise PrefoptError(f"method.{key}={value} is too few", "give at least 1")
        self.rule, self.samples, self.least = rule, samples, least
        self.election = {"rule": rule, "size": size, "least": least}

    def collect(self, data: Table, round: int) -> None:
        return None

    @torch.no_grad()
    def act(self, prompts: Groups, n: int = 1, generator: torch.Generator | None = None) -> Groups:
        """The n responses of the subset, the first choice first."""
        if n > self.samples:
            raise PrefoptError(f"method.samples={self.samples} are too few to choose {n} of", "draw more")
        drawn = self.policy.sample(prompts, self.samples, generator)
        orders = self._rewards(drawn).argsort(dim=-1, descending=True, stable=True).cpu().numpy()
        apart, draws = self._apart(drawn).cpu().numpy(), np.random.default_rng([self.seed, TIES])
        subsets = []
        for b in range(len(drawn)):
            points, least = self.rule.satisfaction(orders[:, b]), bound(self.least, n)
            subsets.append(chosen(self.rule, points, size=n, apart=apart[b], least=least, draws=draws))
        return picked(drawn, torch.tensor(subsets, device=drawn.length.device))

    def score(self, groups: Groups) -> Tensor:
        """[B, n] what a response would be worth alone, by the rankings of its group: points a ranking."""
        orders = self._rewards(groups).argsort(dim=-1, descending=True, stable=True).cpu().numpy()
        rankers, B, n = orders.shape
        points = [self.rule.satisfaction(orders[:, b]) for b in range(B)]
        alone = [[self.rule.total(each, [i]) / rankers for i in range(n)] for each in points]
        return torch.tensor(alone, dtype=torch.float64, device=groups.length.device)

    def _rewards(self, groups: Groups) -> Tensor:
        """[k, B, n] of each member."""
        each = getattr(self.reward, "each", None)
        return finite(self.reward.score(groups)[None] if each is None else each(groups))

    def _apart(self, groups: Groups) -> Tensor:
        """[B, n] whether a response is of G2."""
        said = getattr(self.reward, "apart", None)
        if said is not None:
            return said(groups)
        length = groups.length.double()
        return length < length.mean(-1, keepdim=True)
