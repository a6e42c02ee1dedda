"""The KL-optimal policy in closed form, by enumeration (as in Korbak et al., 2022, arXiv 2205.11275).

pi*(y | x) = ref(y | x) exp( r(x, y) / beta ) / Z(x)   maximises   E[ r ] - beta KL(pi || ref)

and, of all policies that are as far from ref, E[ r ].
"""

from typing import Any

import torch
from scipy.optimize import brentq
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
    beta: price of a nat of KL, in units of the reward. kl: nats to be from ref, whatever beta that takes.
    aggregate: of a reward model's members, [k, ...] -> [...].

    Raises PrefoptError where not just one of beta and kl is given, and where no beta takes it as far as `kl`.
    """

    eats = Contexts
    roles = ("policy", "reward")
    trains = ()
    beta: Any

    def __init__(self, *, beta: float | None = 0.1, kl: float | None = None, aggregate: Aggregate = mean) -> None:
        super().__init__()
        if (beta is None) == (kl is None):
            raise PrefoptError(
                f"method.beta={beta} and method.kl={kl}: one of the two says how far the policy goes",
                "give the KL by method.beta=null method.kl=4, or its price by method.beta=0.1",
            )
        if beta is not None and not beta > 0:
            raise PrefoptError(f"method.beta={beta} is not above 0", "without a price of KL there is no closed form")
        self.beta, self.kl, self.aggregate = beta, kl, aggregate

    def collect(self, data: Table, round: int) -> None:
        return None

    @torch.no_grad()
    def finish(self, round: int) -> None:
        values = getattr(getattr(self.policy, "f", None), "values", None)
        if values is None:
            raise PrefoptError("this method writes down one number a response", "use model=tabular")
        r = self._rewards(everything(*values.shape).to(values.device))
        beta = self.beta if self.kl is None else price(self.policy.reference, r, self.kl)
        values.copy_(r / beta)

    def _rewards(self, groups: Groups) -> Tensor:
        """[contexts, responses] the reward that it is optimal for, of all responses."""
        return self.reward.score(groups)

    def score(self, groups: Groups) -> Tensor:
        return self.reward.score(groups)


def price(reference: Tensor, rewards: Tensor, kl: float) -> float:
    """The beta of the policy that is `kl` nats from the reference [C, R], on average over the contexts."""

    def nats(inverse: float) -> float:
        logps = (reference + inverse * rewards).log_softmax(-1)
        return float((logps.exp() * (logps - reference)).sum(-1).mean())

    scale = 1 / (float(rewards.std()) or 1.0)
    most = nats(scale * 2.0**40)
    if not 0 < kl < most:
        raise PrefoptError(
            f"method.kl={kl}: this reward takes a policy more than 0 and less than {most:.3g} nats from its start",
            "give a number between the two",
        )
    enough = next(scale * 2.0**k for k in range(-40, 41) if nats(scale * 2.0**k) >= kl)
    return 1 / float(brentq(lambda inverse: nats(inverse) - kl, 0, enough, xtol=1e-300, rtol=1e-12))
