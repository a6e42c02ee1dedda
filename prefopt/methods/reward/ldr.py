"""Label-distributionally robust losses (Zhu, Ying and Yang, ICML 2023, arXiv 2112.14869): LDR-KL, and ALDR-KL with a
temperature for each example.

    d_k   = f_k - f_y + c 1[k != y],   f = K r / (sum_k |r_k| + 1e-6)  where normalised, else r
    psi   = max_p  sum_k p_k d_k - lam KL(p || 1/K)  =  lam log( 1/K sum_k exp(d_k / lam) ),   p* = softmax(d / lam)
    ALDR  = max_lam  psi_lam - alpha log K / (2 lam_0) (lam - lam_0)^2
    lam_i <- max( lam_0 (1 - KL(p* || 1/K) / (alpha log K)), 1e-3 )       at every visit, p* at the lam_i before it

lam = 0: max_k d_k (Crammer and Singer). lam = 1, c = 0: cross-entropy - log K. lam = inf: mean_k d_k, symmetric. No
gradient flows through lam_i. Where scores are not normalised a network rescales them, and lam means little. Losses may
be negative.
"""

import math

import torch
from torch import Tensor

from prefopt.batch import Choices
from prefopt.errors import PrefoptError
from prefopt.methods.metrics import Metrics
from prefopt.methods.reward.choice import Choice, chosen, reported, rivals
from prefopt.methods.reward.temperature import Temperature

ALTERNATIONS = 30
"""Of p* and lam, out of training: enough for lam to settle."""


class LDR(Choice):
    """Args:
    lam: >= 0, inf too; where it adapts lam_0, > 0 and finite.
    alpha: > 1, how far lam_i may fall, to (1 - 1/alpha) lam_0; None: one lam for all.
    margin: c >= 0, in units of f. normalised: whether f is the rewards over their mean size, response set by set.
    """

    def __init__(
        self, *, lam: float = 10.0, alpha: float | None = 2.0, margin: float = 0.1, normalised: bool = True
    ) -> None:
        super().__init__()
        if not lam >= 0:
            raise PrefoptError(f"method.lam={lam} is no temperature", "give a number >= 0, or inf")
        if alpha is not None and not (1 < alpha < math.inf and 0 < lam < math.inf):
            raise PrefoptError(
                f"method.alpha={alpha} with method.lam={lam}: temperatures adapt for alpha > 1 and a finite lam > 0",
                "the paper takes alpha 2; method.alpha=null keeps one lam for all",
            )
        if not 0 <= margin < math.inf:
            raise PrefoptError(f"method.margin={margin} is not in [0, inf)", "method.margin=0 leaves it out")
        self.lam, self.alpha, self.margin, self.normalised = lam, alpha, margin, normalised
        self.temperature = None if alpha is None else Temperature(start=lam)

    def loss(self, batch: Choices) -> tuple[Tensor, Metrics]:
        r = self.reward.score(batch)
        d, metrics = self._gaps(r, batch.label), reported(r, batch.label)
        if self.alpha is None:
            return psi(d, self.lam), metrics
        lam = self._lam(d.detach(), batch)
        price = self.alpha * math.log(d.shape[1]) / (2 * self.lam) * (lam - self.lam) ** 2
        return psi(d, lam) - price, metrics | {"noise/lam": lam}

    @torch.no_grad()
    def weigh(self, batch: Choices) -> Tensor | None:
        """[B] p*_y: its loss draws f_y up by 1 - p*_y."""
        d = self._gaps(self.reward.score(batch), batch.label)
        if self.alpha is not None:
            return chosen((d / self._lam(d, batch)[:, None]).softmax(1), batch.label)
        return chosen((d / self.lam).softmax(1), batch.label) if 0 < self.lam < math.inf else None

    def _gaps(self, r: Tensor, label: Tensor) -> Tensor:
        """[B, K] d."""
        f = r.shape[1] * r / (r.abs().sum(1, keepdim=True) + 1e-6) if self.normalised else r
        return f - chosen(f, label)[:, None] + self.margin * rivals(f, label)

    def _lam(self, d: Tensor, batch: Choices) -> Tensor:
        """[B] lam_i of gaps [B, K]: in training a step from the one that is remembered, else where such steps lead."""
        assert self.alpha is not None and self.temperature is not None
        if not self.training:
            lam = torch.full_like(d[:, 0], self.lam)
            for _ in range(ALTERNATIONS):
                lam = stepped(d, lam, start=self.lam, alpha=self.alpha)
            return lam
        lam = stepped(d, self.temperature.of(batch.index).to(d.dtype), start=self.lam, alpha=self.alpha)
        if batch.weight:
            self.temperature.note(batch.index, lam)
        return lam


def psi(d: Tensor, lam: float | Tensor) -> Tensor:
    """[B] of gaps [B, K] at one lam, or at [B]."""
    if isinstance(lam, Tensor):
        return lam * ((d / lam[:, None]).logsumexp(1) - math.log(d.shape[1]))
    if lam == 0:
        return d.amax(1)
    return d.mean(1) if lam == math.inf else lam * ((d / lam).logsumexp(1) - math.log(d.shape[1]))


def stepped(d: Tensor, lam: Tensor, *, start: float, alpha: float) -> Tensor:
    """[B] the best lam for the p* of gaps [B, K] at lam [B]."""
    logp, most = (d / lam[:, None]).log_softmax(1), math.log(d.shape[1])
    kl = (logp.exp() * logp).sum(1) + most
    return (start * (1 - kl / (alpha * most))).clamp(min=1e-3)
