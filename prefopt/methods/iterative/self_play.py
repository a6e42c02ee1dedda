"""Self-play by regression: SPPO (Wu et al., 2024, arXiv 2405.00675) and general preference optimisation, GPO (Zhang et
al., ICML 2025, arXiv 2410.02197).

    y_1 .. y_K ~ pi_t,   s(y_i) = mean_j s(y_i > y_j), itself included
    L = ( log pi(y)/pi_t(y) / |y|^gamma  -  s(y) / beta )^2,   mean over the best and the worst of the K, or over all

It approximates pi_{t+1} = pi_t exp( s / beta ) / Z with log Z left out; over all K, s sums to 0. GPO's s is in
log-odds, SPPO's is P(y_i > y_j) - 1/2. pi_t, the policy that samples a round, is also its reference: its log-probs,
sums over tokens, stay with the samples. Unlike the papers' code, one optimiser serves all rounds.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from prefopt.batch import Groups, Rated
from prefopt.engine.best import picked
from prefopt.errors import PrefoptError
from prefopt.methods.base import Method
from prefopt.methods.iterative.average import Average
from prefopt.methods.iterative.payoff import check, positive
from prefopt.methods.metrics import Metrics
from prefopt.methods.rollout import sampled, worth
from prefopt.models.ensemble import Aggregate
from prefopt.models.scorer import mean
from prefopt.table import Table


class SelfPlay(Method):
    """Args: payoff: of an answer against another, from the log-odds of any scorer. beta: payoff a nat. samples: K.
    extremes: learn from the best and the worst of the K alone. gamma: 1 for length-normalised GPO. prompts: of a round.
    passes: over a round's samples. aggregate: of a reward model's members, [k, ...] -> [...].

    Raises PrefoptError where the payoffs of a round are not finite, or all 0.
    """

    eats = Rated
    roles = ("policy", "reward")

    def __init__(
        self,
        *,
        payoff: Callable[[Tensor], Tensor],
        beta: float = 1.0,
        samples: int = 5,
        extremes: bool = True,
        gamma: float = 0.0,
        prompts: int = 128,
        passes: int = 1,
        aggregate: Aggregate = mean,
    ) -> None:
        super().__init__()
        if samples < 2:
            raise PrefoptError(f"method.samples={samples} leaves nothing to compare", "give at least 2")
        self.payoff, self.step, self.samples, self.extremes = payoff, 1 / positive(beta), samples, extremes
        self.gamma, self.per_round, self.passes, self.aggregate = gamma, prompts, passes, aggregate
        self.average: Average | None = None

    def _extend(self) -> None:
        if hasattr(self.policy, "table"):
            self.average = Average(self.policy)

    @torch.no_grad()
    def collect(self, data: Table, round: int) -> Table:
        if self.average is not None:
            self.average.add(self.policy)
        rows, parts = sampled(self, data, round, self.samples)
        payoffs = [self.payoff(self.reward.table(groups)) for groups in parts]
        check(payoffs, parts)
        earned = [each.mean(-1) for each in payoffs]
        if self.extremes:
            places = [torch.stack([s.argmax(1), s.argmin(1)], 1) for s in earned]
            parts = [picked(groups, at) for groups, at in zip(parts, places, strict=True)]
            earned = [s.gather(1, at) for s, at in zip(earned, places, strict=True)]
        return worth(self, data.ids[rows], parts, torch.cat(earned))

    def loss(self, batch: Rated) -> tuple[Tensor, Metrics]:
        ratio = (self.policy.logps(batch) - batch.behaviour).sum(-1) / batch.length**self.gamma
        target = self.step * batch.reward
        sizes = {"objective/ratios": ratio.detach().abs().mean(1), "objective/targets": target.abs().mean(1)}
        return ((ratio - target) ** 2).mean(1), sizes

    def score(self, groups: Groups) -> Tensor:
        return self.reward.score(groups)
