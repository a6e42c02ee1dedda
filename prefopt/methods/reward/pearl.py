"""PEARL's robust reward learning (Liu, Du, Bai, Lyu and Li, ICML 2024, arXiv 2306.03615).

    R(y) = sum_t r_t ~ N( sum_t mu_t, sum_t sigma_t^2 ),   D = R(y_w) - R(y_l) ~ N( d, s^2 )
    L(+) = -log sigmoid(d) - sampled E log sigmoid(D),   L(-) that of the swapped pair
    L = robust( p L(+) + (1 - p) L(-), ... ) + floor max( 0, entropy - mean_t h_t ),   h_t = log(2 pi e sigma_t^2) / 2

p is 1, or with soft labels the recorded sigmoid(margin), where there is one. The labels that it is robust to come from
another task: that half of the paper is `dataset=trajectories`. Differences:

1. E is over `nodes` values of (D - d) / s with the weights of Gauss and Hermite, in the place of random draws: the same
   integral and the same reparameterised gradients to mu and sigma, without their noise.
2. What is known of the paper leaves the form of the variance keeper and all weights open; these are ours.
3. mu and log sigma^2 are two networks, not two heads of one.
"""

import copy
from math import e, log, pi

import numpy as np
import torch
from torch import Tensor

from prefopt.batch import Pairs, chosen_rejected
from prefopt.errors import PrefoptError
from prefopt.methods.metrics import Metrics
from prefopt.methods.pairwise.base import Robustifier
from prefopt.methods.reward.bradley_terry import BradleyTerry
from prefopt.models.gaussian import Gaussian

VARIANCE = 0
"""What it draws for itself."""


class Pearl(BradleyTerry):
    """Args:
        robust: as in the pairwise family. soft: whether a label is as sure as its recorded margin says.
        sampled, floor: weights >= 0 of the two terms. entropy: nats a step that the reward is to keep.
        nodes: of the expectation, at least 1.
    Raises PrefoptError where one is out of range, or where labels are to be soft and no pair has a margin.
    """

    nodes: Tensor
    weights: Tensor

    def __init__(
        self,
        *,
        robust: Robustifier,
        soft: bool = False,
        sampled: float = 1.0,
        floor: float = 1.0,
        entropy: float = 1.0,
        nodes: int = 8,
    ) -> None:
        super().__init__(robust=robust)
        for name, value, least in (("sampled", sampled, 0), ("floor", floor, 0), ("nodes", nodes, 1)):
            if value < least:
                raise PrefoptError(f"method.{name}={value} is too little", f"give at least {least}")
        self.soft, self.sampled, self.floor, self.entropy = soft, sampled, floor, entropy
        at, weight = np.polynomial.hermite_e.hermegauss(nodes)
        self.register_buffer("nodes", torch.from_numpy(at), persistent=False)
        self.register_buffer("weights", torch.from_numpy(weight / weight.sum()), persistent=False)

    def loss(self, batch: Pairs) -> tuple[Tensor, Metrics]:
        mu, log_variance = self.reward.law(batch)
        r_w, r_l = chosen_rejected(mu.sum(-1), batch.label)
        variance = log_variance.exp()
        losses: Tensor = self.robust(*self._both(r_w - r_l, variance, batch), batch)
        h = (log(2 * pi * e) + log_variance).mean((1, 2)) / 2
        losses = losses + self.floor * (self.entropy - h).relu()
        metrics = {"rewards/chosen": r_w, "rewards/rejected": r_l, "rewards/margins": r_w - r_l}
        metrics["rewards/accuracies"] = (r_w > r_l).float()
        metrics["rewards/variance"] = variance.mean((1, 2))
        return losses, {name: value.detach() for name, value in metrics.items()} | self.robust.facts()

    @torch.no_grad()
    def weigh(self, batch: Pairs) -> Tensor | None:
        mu, log_variance = self.reward.law(batch)
        r_w, r_l = chosen_rejected(mu.sum(-1), batch.label)
        return self.robust.trust(*self._both(r_w - r_l, log_variance.exp(), batch), batch)

    def _both(self, d: Tensor, variance: Tensor, batch: Pairs) -> tuple[Tensor, Tensor]:
        """L(+) and L(-) [B], of differences [B] of mean returns and the variances [B, 2, T] of all steps."""
        s = variance.sum((1, 2)).sqrt()
        D = d + s * self.nodes.to(d.dtype)[:, None]
        drawn = (self.weights.to(d.dtype) @ side for side in self._sides(D, batch))
        right, flipped = (
            mean + self.sampled * expected for mean, expected in zip(self._sides(d, batch), drawn, strict=True)
        )
        if self.soft and self.training and batch.margin is None:
            raise PrefoptError(
                "method.soft=true takes the probability of a label from its recorded margin, and these pairs have none",
                "use method.soft=false, or data with margins, such as dataset=trajectories",
            )
        if not self.soft or batch.margin is None:
            return right, flipped
        p = batch.margin.to(d.dtype).sigmoid()
        return p * right + (1 - p) * flipped, p * flipped + (1 - p) * right

    def _extend(self) -> None:
        spread = copy.deepcopy(self.reward)
        spread.redraw(self.generator(VARIANCE))
        self.reward = Gaussian(self.reward, spread)
