"""Multiplicative weights, the exact update that self-play by regression approximates (Zhang et al., ICML 2025,
arXiv 2410.02197).

    pi_{t+1}(y) = pi_t(y) exp( E_{z ~ pi_t}[ s(y > z) ] / beta ) / Z

With beta of order sqrt(T), the average of pi_1 .. pi_T is within O(1/sqrt T) of an equilibrium; the last need not be.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from prefopt.batch import Contexts, Groups
from prefopt.errors import PrefoptError
from prefopt.methods.base import Method
from prefopt.methods.iterative.average import Average
from prefopt.methods.iterative.payoff import check, positive
from prefopt.models.ensemble import Aggregate
from prefopt.models.exact import everything
from prefopt.models.scorer import mean
from prefopt.table import Table


class MultiplicativeWeights(Method):
    """Args: payoff, beta, aggregate: as in self-play. A round is an update, in every context of the data.

    Raises PrefoptError for a policy that is not one number a response, and for payoffs as in self-play.
    """

    eats = Contexts
    roles = ("policy", "reward")
    trains = ()

    def __init__(self, *, payoff: Callable[[Tensor], Tensor], beta: float = 1.0, aggregate: Aggregate = mean) -> None:
        super().__init__()
        self.payoff, self.step, self.aggregate = payoff, 1 / positive(beta), aggregate

    def _extend(self) -> None:
        if hasattr(self.policy, "table"):
            self.average = Average(self.policy)

    @torch.no_grad()
    def collect(self, data: Table, round: int) -> None:
        if round:
            return
        if not hasattr(getattr(self.policy, "f", None), "values"):
            raise PrefoptError("method=multiplicative_weights writes down one number a response", "use model=tabular")
        self.contexts = torch.from_numpy(np.unique(data.prompt.values)).to(self.policy.reference.device)
        groups = everything(*self.policy.reference.shape).to(self.contexts.device).pick(self.contexts.long())
        self.payoffs = self.payoff(self.reward.table(groups))
        check([self.payoffs], [groups])

    @torch.no_grad()
    def finish(self, round: int) -> None:
        self.average.add(self.policy)
        pi = self.policy.table().exp()[self.contexts]
        self.policy.f.values[self.contexts] += self.step * (self.payoffs @ pi[..., None])[..., 0]

    def score(self, groups: Groups) -> Tensor:
        return self.reward.score(groups)
