"""Expectation-maximisation over who labelled right: latent collective preference optimisation, LCPO, later RE-PO
(Cao et al., ICLR 2026, arXiv 2509.24159). Annotator k is right with an unknown reliability eta_k.

    p = sigmoid(u),  u = L(-) - L(+)          what the policy says of the recorded label
    w = eta_k p / ( eta_k p + (1 - eta_k)(1 - p) ),   logit w = u + logit eta_k                     E-step, no gradient
    L^ = -[ w log p + (1 - w) log(1 - p) ]    `likelihood`, or  w L(+) + (1 - w) L(-)  `weighted`   M-step

For DPO the two M-steps are one. Influence -dL^/du = w - p: that of DPO, 1 - p, at eta = 1, and none at eta = 1/2.
Anchors sit inside p.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.batch import Pairs
from prefopt.errors import PrefoptError
from prefopt.methods.metrics import Metrics
from prefopt.methods.pairwise.base import Robustifier
from prefopt.methods.pairwise.robust.reliability import Reliability


class EM(Robustifier):
    """Args: reliability: eta before the first step, in (0.5, 1). rate: alpha of its moving average, in (0, 1].
    m_step: likelihood (the paper's) or weighted."""

    whole = True
    weighs = True

    def __init__(
        self, *, reliability: float = 0.9, rate: float = 0.1, m_step: Literal["likelihood", "weighted"] = "likelihood"
    ) -> None:
        super().__init__()
        if m_step not in ("likelihood", "weighted"):
            raise PrefoptError(f"method.robust.m_step={m_step} is no M-step", "choose likelihood or weighted")
        self.m_step, self.reliability = m_step, Reliability(start=reliability, rate=rate)

    def forward(self, right: Tensor, flipped: Tensor, batch: Pairs) -> Tensor:
        u, w = flipped - right, self.trust(right, flipped, batch)
        if self.training and batch.weight:
            self.reliability.note(w, u.detach().sigmoid(), batch.annotator)
        return w * right + (1 - w) * flipped if self.m_step == "weighted" else (1 - w) * u - logsigmoid(u)

    @torch.no_grad()
    def trust(self, right: Tensor, flipped: Tensor, batch: Pairs) -> Tensor:
        """[B] w."""
        eta = self.reliability.of(batch.annotator, right)
        return (flipped - right + eta.logit()).sigmoid().to(right.dtype)

    def facts(self) -> Metrics:
        return self.reliability.facts()
