"""beta-DPO (Wu et al., NeurIPS 2024, arXiv 2407.08639): a beta for each batch, and a filter of outlying pairs.

With gaps h_i = log pi(y_w)/ref(y_w) - log pi(y_l)/ref(y_l), running mean M and deviation S, moved before they are used:

    M <- decay M + (1 - decay) mean h,    S <- decay S + (1 - decay) std h                                from 0
    p_i ~ exp( -1/2 ((h_i - M)/S)^2 )            `keep` of the batch is drawn without replacement
    beta' = max( 1e-3, beta (1 + a (mean of the kept h - M)) )                                            detached
    L = mean over the kept of -log sigmoid(beta' h_i)

The paper writes beta h for the gap of M, S and a, its authors' code h. The draw is by Gumbel's rule in log space, where
no p_i underflows. In evaluation M and S stay as they are and every pair is kept.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.batch import Pairs
from prefopt.errors import PrefoptError
from prefopt.methods.memory import Memory
from prefopt.methods.metrics import Metrics
from prefopt.methods.pairwise.base import Objective, Pairwise, Robustifier
from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.pair import Pair

LEAST_BETA = 1e-3


class Moments(Memory):
    """M and S, and what the batch at hand makes of them."""

    values: Tensor

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("values", torch.zeros(2, dtype=torch.float64))
        self.clear()

    def clear(self) -> None:
        self.noted: Tensor | None = None

    def learn(self) -> None:
        if self.noted is not None:
            self.values.copy_(self.noted)

    def forward(self, gap: Tensor) -> Tensor:
        """[2] M and S for the [B] gaps of a batch; a batch of one has no deviation."""
        if not self.training:
            return self.values
        own = torch.stack([gap.mean(), gap.std(correction=min(1, len(gap) - 1))])
        self.noted = self.decay * self.values + (1 - self.decay) * own
        return self.noted

    def facts(self) -> Metrics:
        return {"beta_dpo/mean": self.values[0].clone(), "beta_dpo/deviation": self.values[1].clone()}


class BetaDPO(Pairwise):
    """Args: sensitivity: a. keep: share of a batch. decay: of the moving averages. priced: gaps times beta, as in the
    paper, and not as in its code.

    Raises PrefoptError for another objective than DPO.
    """

    def __init__(
        self,
        *,
        objective: Objective,
        robust: Robustifier,
        sensitivity: float = 0.6,
        keep: float = 0.8,
        decay: float = 0.9,
        priced: bool = False,
    ) -> None:
        super().__init__(objective=objective, robust=robust)
        if type(objective) is not DPO:
            raise PrefoptError("method=beta_dpo is about the beta of DPO", "use method/objective=dpo")
        if not 0 < keep <= 1:
            raise PrefoptError(f"method.keep={keep} is no share of a batch", "give a number above 0 and at most 1")
        self.beta, self.sensitivity, self.keep = objective.beta, sensitivity, keep
        self.scale = objective.beta if priced else 1.0
        self.moments, self.coupled = Moments(decay), True

    def _robust(self, pair: Pair, batch: Pairs) -> Tensor:
        h = pair.w.ratio - pair.l.ratio
        with torch.no_grad():
            gap = self.scale * h.double()
            M, S = self.moments(gap)
            kept = self._kept(gap, M, S, batch)
            self.batch_beta = (self.beta * (1 + self.sensitivity * (gap[kept].mean() - M))).clamp(min=LEAST_BETA)
        z = self.batch_beta.to(h) * h[kept]
        losses: Tensor = self.robust(-logsigmoid(z), -logsigmoid(-z), batch.pick(kept))
        return torch.zeros_like(h).masked_scatter(kept, losses * len(h) / len(z))

    def _kept(self, gap: Tensor, M: Tensor, S: Tensor, batch: Pairs) -> Tensor:
        """[B] true where a pair is drawn, whatever the order of the batch."""
        if not self.training:
            return torch.ones_like(gap, dtype=torch.bool)
        uniform = torch.rand(len(gap), generator=self.generator(self.global_step, 2), dtype=torch.float64)
        gumbel = -torch.log(-torch.log(uniform.clamp(min=1e-300))).to(gap.device)[batch.index.argsort().argsort()]
        chance = -0.5 * ((gap - M) / S.clamp(min=1e-9)) ** 2 + gumbel
        kept = torch.zeros_like(gap, dtype=torch.bool)
        kept[chance.topk(max(1, round(self.keep * len(gap)))).indices] = True
        return kept

    def metrics(self, pair: Pair) -> Metrics:
        return {**super().metrics(pair), "beta_dpo/beta": self.batch_beta, **self.moments.facts()}
