"""The policy that serves the worst-off group best, in closed form (Chakraborty et al., ICML 2024, arXiv 2402.08925).

    max_pi  min_u F_u(pi) - beta KL(pi || ref),   F_u(pi) = E[ r_u(x, y) ]                    level `group`
    pi* = ref exp( sum_u lam_u r_u / beta ) / Z,   lam* = argmin over the simplex of the dual  E_x[ beta log Z ]

    max_pi  E[ min_u r_u(x, y) ] - beta KL(pi || ref)                                         level `sample`

`group` is what the paper states, `sample` what its code computes, which likes bland responses that nobody hates. Each
r_u is centred under the reference at each prompt and has sd 1 over all: Bradley-Terry leaves both open, and a minimum
of what was not would follow whoever shouts loudest. One reward model makes it `gibbs` on that reward.
"""

from typing import Literal

import numpy as np
import torch
from scipy.optimize import LinearConstraint, minimize
from torch import Tensor

from prefopt.batch import Groups
from prefopt.errors import PrefoptError
from prefopt.methods.selection.gibbs import Gibbs
from prefopt.models.ensemble import members
from prefopt.models.exact import taken
from prefopt.models.scorer import centred

LEVELS = ("group", "sample")
GAP = 1e-6
"""What a policy may fall short of the optimum by, in units of the reward."""


class MaxMin(Gibbs):
    """Args: beta: price of a nat of KL, in standard deviations of a group's reward. level: group or sample."""

    maximises = False

    def __init__(self, *, beta: float = 0.25, level: Literal["group", "sample"] = "group") -> None:
        super().__init__(beta=beta)
        if level not in LEVELS:
            raise PrefoptError(f"method.level={level} is no level", "choose group or sample")
        self.level = level

    def _rewards(self, groups: Groups) -> Tensor:
        r = centred(torch.stack([member.score(groups) for member in members(self.reward)]), self.policy.reference)
        if self.level == "sample":
            return r.amin(0)
        return mixed(worst(r, self.policy.reference, self.beta), r)

    def score(self, groups: Groups) -> Tensor:
        return taken(self.beta * self.policy.f(), groups)


def worst(r: Tensor, reference: Tensor, beta: float) -> Tensor:
    """[U] lam*, the mixture of groups that no policy can please: minimises the dual, whose gradient is F_u(pi_lam).

    r: [U, C, R] rewards. reference: [C, R] log-probs. Raises PrefoptError where the duality gap, sum_u lam_u F_u -
    min_u F_u, does not close.
    """
    r, U = r.double(), len(r)

    def dual(lam: np.ndarray) -> tuple[float, np.ndarray]:
        tilted = reference + mixed(torch.from_numpy(lam).to(r), r) / beta
        F = torch.einsum("cr,ucr->u", tilted.softmax(-1), r) / len(reference)
        return float(beta * tilted.logsumexp(-1).mean()), F.cpu().numpy()

    found = minimize(
        dual,
        np.full(U, 1 / U),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * U,
        constraints=LinearConstraint(np.ones(U), 1, 1),
        options={"ftol": 1e-14, "maxiter": 500},
    )
    F = dual(found.x)[1]
    if not (gap := found.x @ F - F.min()) < GAP:
        raise PrefoptError(
            f"the policy for the worst-off group is {gap:.2g} sd of its reward from optimal: {found.message}",
            "raise method.beta",
        )
    return torch.from_numpy(found.x).to(r)


def mixed(lam: Tensor, r: Tensor) -> Tensor:
    """[U] and [U, C, R] to [C, R]."""
    return torch.einsum("u,ucr->cr", lam, r)
