"""SparsePO: sparse token masks (Christopoulou et al., Findings of EMNLP 2025, arXiv 2410.05102).

With d_t = log pi(y_t)/ref(y_t) and KL_t = KL(ref || pi) of the next-token laws, and masks m_u, m_d >= 0 of the tokens:

    u     = sum_t m_u,t d_t  (chosen)    -  sum_t m_u,t d_t  (rejected)
    delta = sum_t m_d,t KL_t (rejected)  -  sum_t m_d,t KL_t (chosen)
    L     = -log sigmoid( beta (u - delta) )  +  lam_u |m_u|_1  +  lam_d |m_d|_1

So a response has sum_t (m_u d + m_d KL)_t in the place of its log-ratio, in any objective that reads log-ratios. Norms
are sums over both responses, and no robustifier touches them. With one mask for both, each lambda counts half.
Limits: m = 1 is TDPO1 (`tdpo`), m_u = 1 with m_d = 0 is DPO. See `masks` for where m comes from.
"""

from typing import ClassVar

import torch
from torch import Tensor

from prefopt.batch import Pairs, chosen_rejected
from prefopt.engine.laws import compared
from prefopt.errors import PrefoptError
from prefopt.methods.metrics import Metrics
from prefopt.methods.pairwise.base import Objective, Pairwise, Robustifier
from prefopt.methods.pairwise.masks import Learned, Mask
from prefopt.methods.pairwise.pair import Pair


class SparsePO(Pairwise):
    """Args: mask: where m comes from, see `masks`. lam_u, lam_d: weights of the norms, in nats a token.

    Raises PrefoptError where the objective is not one of log-ratios alone, or a lambda is negative.
    """

    worlds: ClassVar[frozenset[str]] = frozenset({"text"})
    whole_laws = True

    def __init__(
        self, *, objective: Objective, robust: Robustifier, mask: Mask, lam_u: float = 0.0, lam_d: float = 0.0
    ) -> None:
        super().__init__(objective=objective, robust=robust)
        if not objective.uses_reference or objective.uses_collisions or objective.uses_mismatched:
            raise PrefoptError(
                "method=sparsepo weighs log-ratios to a reference, and this objective has none or reads more than them",
                "use method/objective=dpo, or another of a pair's log-ratios",
            )
        if not (lam_u >= 0 and lam_d >= 0):
            raise PrefoptError(f"method.lam_u={lam_u}, lam_d={lam_d}: a norm would be rewarded", "give 0 or more")
        self.mask, self.lam_u, self.lam_d = mask, lam_u, lam_d

    def _extend(self) -> None:
        if isinstance(self.mask, Learned):
            layers, width = self.reference.shape
            self.mask.build(layers, width, like=next(self.policy.parameters()))

    def loss(self, batch: Pairs) -> tuple[Tensor, Metrics]:
        tokens = self._tokens(batch)
        m_u, m_d = tokens["m_u"], tokens["m_d"]
        norms = (self.lam_u * m_u + self.lam_d * m_d).sum((1, 2)) / (2 if self.mask.common else 1)
        metrics = self.metrics(Pair.of(batch, tokens["logps"], tokens["reference"]))
        metrics["kl/tokens"] = tokens["kl"].detach().sum((1, 2)) / batch.length.sum(1)
        for name in ("m_u", "m_d"):
            zeros = ((tokens[name] == 0) & batch.mask).sum(-1) / batch.length
            sides = chosen_rejected(zeros, batch.label)
            metrics |= {
                f"zeros/{name}/{side}": share for side, share in zip(("chosen", "rejected"), sides, strict=True)
            }
        return self._robust(self._weighed(tokens, batch), batch) + norms, metrics

    @torch.no_grad()
    def weigh(self, batch: Pairs) -> Tensor:
        return self._tokens(batch)["m_u"]

    def _pair(self, batch: Pairs) -> Pair:
        return self._weighed(self._tokens(batch), batch)

    def _weighed(self, tokens: dict[str, Tensor], batch: Pairs) -> Pair:
        """The pair whose log-ratios are sum_t (m_u d + m_d KL)_t."""
        reference = tokens["reference"]
        change = tokens["m_u"] * (tokens["logps"] - reference) + tokens["m_d"] * tokens["kl"]
        return Pair.of(batch, reference + change, reference)

    def _tokens(self, batch: Pairs) -> dict[str, Tensor]:
        """m_u, m_d, logps, reference and kl of each token, [B, 2, T], zero outside the responses."""
        mask = batch.mask
        with torch.no_grad():
            seen = self.reference.states(batch)
        found = dict(zip(("m_u", "m_d"), self.mask(self.reference, batch, seen), strict=True))
        states = self.policy.states(batch, last=True)[-1]
        laws = compared(states, self.policy.law, seen[-1], self.reference.law, batch.response[mask])
        found |= zip(("logps", "reference", "kl"), laws, strict=True)
        return {name: values.new_zeros(mask.shape).masked_scatter(mask, values) for name, values in found.items()}
