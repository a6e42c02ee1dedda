"""CRM-DPO: two policies that review each other's data (Zhang et al., 2025, arXiv 2505.10597).

    r_i(x, y) = beta ( log pi_i(y | x) - log ref(y | x) ),   i in {A, B}

Collaborative reward modelling on these rewards: its loss is then DPO's. Both begin as the reference, so that only the
order of the first round tells them apart; what all of a batch choose for each other (order none) would be the same for
both, for ever.
"""

import copy
from typing import Any, Literal

from torch import Tensor, nn

from prefopt.batch import Groups
from prefopt.errors import PrefoptError
from prefopt.methods.base import Method
from prefopt.methods.pairwise.base import Robustifier
from prefopt.methods.reward.crm import CRM
from prefopt.models.scorer import Scorer


class CRMDPO(CRM):
    """`policy` is A, which answers and is kept.

    Args: beta: as in DPO. rate, warm, review, robust: as in `CRM`.
    Raises PrefoptError where beta is not a positive number.
    """

    roles = ("policy", "reference")
    trains = ("policy",)
    act = Method.act

    def __init__(
        self,
        *,
        robust: Robustifier,
        rate: float,
        beta: float = 0.1,
        warm: float = 3.0,
        review: Literal["peer", "self"] = "peer",
    ) -> None:
        super().__init__(robust=robust, rate=rate, warm=warm, review=review)
        if not 0 < beta < float("inf"):
            raise PrefoptError(f"method.beta={beta} is not a positive number", "0.1 is usual")
        self.beta = beta

    def score(self, groups: Groups) -> Tensor:
        return self._implied(self.policy, groups)

    def _implied(self, policy: Any, groups: Groups) -> Tensor:
        """[B, n] r_i"""
        ratio: Tensor = policy.logps(groups) - self.reference_logps(groups)
        return self.beta * ratio.sum(-1)

    def _begun(self) -> list[Any]:
        return [Member(policy, self) for policy in (self.policy, copy.deepcopy(self.policy))]


class Member(nn.Module, Scorer):
    """A policy as the reward model that it implies."""

    def __init__(self, policy: Any, method: CRMDPO) -> None:
        super().__init__()
        self.policy, self.implied = policy, method._implied

    def score(self, groups: Groups) -> Tensor:
        return self.implied(self.policy, groups)
