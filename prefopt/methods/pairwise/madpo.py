"""Margin-adaptive DPO (Rho, 2025, arXiv 2510.05342): a reward model first, whose margins then weigh each pair's loss.

    m    = r(x, y_w) - r(x, y_l)                                              as recorded, of a frozen reward model
    c(a) = c_min + (c_max - c_min) / (1 + (c_max - 1)/(1 - c_min) exp(lam (a - tau)))        falls, c(tau) = 1
    w(m) = sigmoid(c(|m|) m) / sigmoid(m)  if m > -tau,  else 1
    L    = - w(m) log sigmoid(z)

Where P(label) = sigmoid(m), the weights of both orders move the loss's minimiser from z = m to z = c(|m|) m for
|m| < tau: further for hard pairs, less far for easy ones. No gradient flows into w. A robustifier gets L(+) with w(m)
and L(-) with w(-m). It is no filter of noise: a confident disagreement, m <= -tau, has the weight 1 again.
"""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.batch import Pairs, chosen_rejected
from prefopt.engine.loader import sequential
from prefopt.errors import PrefoptError
from prefopt.methods.metrics import Metrics
from prefopt.methods.pairwise.base import Objective, Pairwise, Robustifier
from prefopt.methods.pairwise.pair import Pair
from prefopt.table import Table

ROWS_AT_ONCE = 64


class MADPO(Pairwise):
    """Args: c_max: of the amplification, at least 1. c_min: of the damping, in (0, 1]; None for 1/c_max. steepness:
    lam. threshold: tau, in nats of the reward model's log-odds.

    Raises PrefoptError for other values, and where the objective has no loss of a single pair.
    """

    def __init__(
        self,
        *,
        objective: Objective,
        robust: Robustifier,
        c_max: float = 2.0,
        c_min: float | None = None,
        steepness: float = 1.0,
        threshold: float = math.log(999),
    ) -> None:
        super().__init__(objective=objective, robust=robust)
        c_min = 1 / c_max if c_min is None else c_min
        if not (c_max > 1 > c_min > 0 or c_max == c_min == 1):
            raise PrefoptError(
                f"method.c_max={c_max}, c_min={c_min}: targets are amplified below the threshold and damped above it",
                "give c_max > 1 and 0 < c_min < 1, or 1 for both, which is the objective alone",
            )
        if objective.coupled:
            raise PrefoptError(
                "method=madpo weighs pairs one by one, and this objective couples the pairs of a batch",
                "use an objective that stands for each pair alone (method/objective=dpo)",
            )
        self.c_max, self.c_min, self.steepness, self.threshold = c_max, c_min, steepness, threshold
        self.roles = (*self.roles, "reward")
        self._seen: tuple[Table, Table] | None = None

    @torch.no_grad()
    def collect(self, data: Table, round: int) -> Table:
        """The data with the reward model's score of both responses, computed once."""
        if self._seen is None or self._seen[0] is not data:
            batches = sequential(data, ROWS_AT_ONCE)
            score = torch.cat([self.reward.score(batch.to(self.device)).cpu() for batch in batches]).numpy()
            self._seen = data, replace(data, columns={**data.columns, "score": np.asarray(score)})
        return self._seen[1]

    def loss(self, batch: Pairs) -> tuple[Tensor, Metrics]:
        losses, metrics = super().loss(batch)
        m = self._margin(batch)
        return losses, metrics | {"madpo/margin": m, "madpo/target": self._c(m) * m, "madpo/weight": self._weight(m)}

    def _sides(self, pair: Pair, batch: Pairs) -> tuple[Tensor, Tensor]:
        m = self._margin(batch)
        right, flipped = super()._sides(pair, batch)
        return self._weight(m) * right, self._weight(-m) * flipped

    @torch.no_grad()
    def _margin(self, batch: Pairs) -> Tensor:
        """[B] m."""
        score = self.reward.score(batch) if batch.score is None else batch.score
        r_w, r_l = chosen_rejected(score, batch.label)
        return r_w - r_l

    def _c(self, m: Tensor) -> Tensor:
        """[B] c(|m|)."""
        if self.c_max == 1:
            return torch.ones_like(m)
        odds = math.log((self.c_max - 1) / (1 - self.c_min)) + self.steepness * (m.abs() - self.threshold)
        return self.c_min + (self.c_max - self.c_min) * (-odds).sigmoid()

    def _weight(self, m: Tensor) -> Tensor:
        """[B] w(m)."""
        w = (logsigmoid(self._c(m) * m) - logsigmoid(m)).exp()
        return torch.where(m > -self.threshold, w, 1.0)
