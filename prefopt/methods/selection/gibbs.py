"""The KL-optimal policy in closed form, by enumeration (as in Korbak et al., 2022, arXiv 2205.11275).

pi*(y | x) = ref(y | x) exp( r(x, y) / beta ) / Z(x)   maximises   E[ r ] - beta KL(pi || ref)
"""

import torch
from torch import Tensor

from prefopt.batch import Contexts, Groups
from prefopt.errors import PrefoptError
from prefopt.methods.base import Method
from prefopt.models.ensemble import Aggregate
from prefopt.models.exact import everything
from prefopt.models.scorer import mean
from prefopt.table import Table


class Gibbs(Method):
    """Args:
    beta: price of a nat of KL, in units of the reward. aggregate: of a reward model's members, [k, ...] -> [...].
    """

    eats = Contexts
    roles = ("policy", "reward")
    trains = ()

    def __init__(self, *, beta: float = 0.1, aggregate: Aggregate = mean) -> None:
        super().__init__()
        self.beta, self.aggregate = beta, aggregate

    def collect(self, data: Table, round: int) -> None:
        return None

    @torch.no_grad()
    def finish(self, round: int) -> None:
        values = getattr(getattr(self.policy, "f", None), "values", None)
        if values is None:
            raise PrefoptError("method=gibbs writes down one number a response", "use model=tabular")
        values.copy_(self.reward.score(everything(*values.shape).to(values.device)) / self.beta)

    def score(self, groups: Groups) -> Tensor:
        return self.reward.score(groups)
