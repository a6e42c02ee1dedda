"""Group relative policy optimisation (Shao et al., 2024, arXiv 2402.03300).

    A_i    = (r_i - mean r) / (std r + eps)              sample standard deviation over the G responses of a prompt
    l_it   = -min( rho_it A_i, clip(rho_it, 1 - low, 1 + high) A_i ),   rho_it = pi(o_it) / pi_old(o_it)
    k3_it  = exp(ref - logp) - (ref - logp) - 1
    L      = mean_i sum_t (l_it + beta k3_it) / |o_i|

pi_old is the policy that sampled, at temperature 1; every round samples anew and goes `passes` times over its samples.
"""

from torch import Tensor

from prefopt.batch import Groups, Rated
from prefopt.methods.base import Method
from prefopt.methods.metrics import Metrics
from prefopt.methods.online.advantages import standardised
from prefopt.methods.online.clipping import clip_surrogate
from prefopt.methods.rollout import rated
from prefopt.models.ensemble import Aggregate
from prefopt.models.scorer import mean
from prefopt.table import Table


class GRPO(Method):
    """Args: group_size: G. prompts: B of a round. passes: inner passes. low, high: clip range. beta: weight of the KL.
    eps: added to the standard deviation. aggregate: of a reward model's members, [k, ...] -> [...]."""

    eats = Rated

    def __init__(
        self,
        *,
        group_size: int = 8,
        prompts: int = 64,
        passes: int = 1,
        low: float = 0.2,
        high: float = 0.2,
        beta: float = 0.04,
        eps: float = 1e-6,
        aggregate: Aggregate = mean,
    ) -> None:
        super().__init__()
        self.group_size, self.per_round, self.passes = group_size, prompts, passes
        self.low, self.high, self.beta, self.eps, self.aggregate = low, high, beta, eps, aggregate
        self.roles = ("policy", "reward", "reference") if beta > 0 else ("policy", "reward")

    def collect(self, data: Table, round: int) -> Table:
        return rated(self, data, round, self.group_size)

    def loss(self, batch: Rated) -> tuple[Tensor, Metrics]:
        logps = self.policy.logps(batch)
        advantage = standardised(batch.reward, self.eps)[..., None]
        surrogate, clipped = clip_surrogate(logps, batch.behaviour, advantage, self.low, self.high)
        tokens = surrogate
        clipped_share = (clipped * batch.mask).sum((1, 2)) / batch.length.sum(1)
        metrics = {"objective/scores": batch.reward.mean(1), "clip/fraction": clipped_share}
        if self.beta > 0:
            kl = k3(logps, self.reference_logps(batch))
            tokens = tokens + self.beta * kl
            metrics["objective/kl"] = kl.detach().sum(-1).mean(1)
        losses = ((tokens * batch.mask).sum(-1) / batch.length).mean(1)
        return losses, {name: value.detach() for name, value in metrics.items()}

    def score(self, groups: Groups) -> Tensor:
        return self.reward.score(groups)


def k3(logps: Tensor, reference: Tensor) -> Tensor:
    """Schulman's estimate of KL(pi || ref) from samples of pi, token by token: never negative."""
    gap = reference - logps
    return gap.expm1() - gap
