"""Collaborative reward modelling, CRM (Zhang et al., 2025, arXiv 2505.10597): two reward models that review each
other's data, for a network fits right labels before wrong ones, and two of them err early on different pairs.

    m_i = r_i(y_w) - r_i(y_l),   L_A = mean over S_A of -log sigmoid(m_A),   L_B likewise            i in {A, B}
    S_A: the share R(t) of the pairs with the largest m_B,   S_B: that with the largest m_A
    R(t) = 1 - min(t / T, 1) eta,   t = 0, 1, ... the round

order = cut: S_A and S_B are of all pairs, and each model goes through its own from easy to hard; the first round is
shuffled. none: they are of every shuffled batch. sort_and_batch: of every batch of pairs sorted by m_A + m_B, of which
the late ones hold the wrong labels and keep as many of them: an ablation. A loss falls in its margin, so the smallest
losses are the largest margins. At eta = 0 without an order neither model knows of the other.
"""

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from prefopt import ranks
from prefopt.batch import Groups, Pairs, chosen_rejected
from prefopt.engine.loader import sequential
from prefopt.errors import PrefoptError
from prefopt.methods.metrics import Metrics
from prefopt.methods.pairwise.base import Robustifier
from prefopt.methods.reward.several import Several
from prefopt.table import Table

ROWS_AT_ONCE = 256
ROUNDING = 1e-9


class CRM(Several):
    """Two members, of which `score` is the first: a baseline has one. What is optimised against may use both.

    With order=cut the rounds get shorter, so that a learning rate that falls ends above what it would fall to.

    Args:
        rate: eta, the assumed share of wrong labels, at most 0.5. warm: T, the rounds until all of it is left out.
        order: cut, none or sort_and_batch. review: peer, or self: each model chooses for itself.
        robust, margin, centring: as in `BradleyTerry`.
    """

    least_rounds = 2  # the first keeps all
    visits: Tensor
    """[N] rows that the first model goes through, in its order, and then -1; -1 alone: all, shuffled."""
    partner: Tensor
    """[N] what the second one sees in the place of each row."""
    told: Tensor
    """[2] R(t), and the share of S_A that is in S_B."""

    def __init__(
        self,
        *,
        robust: Robustifier,
        rate: float,
        warm: float = 3.0,
        order: Literal["cut", "none", "sort_and_batch"] = "cut",
        review: Literal["peer", "self"] = "peer",
        margin: float = 0.0,
        centring: float = 0.0,
    ) -> None:
        super().__init__(members=2, robust=robust, margin=margin, centring=centring)
        if not 0 <= rate <= 0.5:
            raise PrefoptError(
                f"method.rate={rate} is not in [0, 0.5]: above it most labels are wrong, and the easy pairs with them",
                "say what share is wrong by noise.assumed, rather too little than too much",
            )
        if not warm > 0:
            raise PrefoptError(f"method.warm={warm} is no number of rounds", "1 to 3 are usual")
        for name, value, known in (
            ("order", order, ("cut", "none", "sort_and_batch")),
            ("review", review, ("peer", "self")),
        ):
            if value not in known:
                raise PrefoptError(f"method.{name}={value} is not known", f"choose {', '.join(known)}")
        self.rate, self.warm, self.order, self.review = rate, warm, order, review
        self.coupled = self.coupled or order != "cut"

    def collect(self, data: Table, round: int) -> Table:
        """The data, of which a round of training goes through `rows`."""
        if not self.training:
            return data
        share, agreement = kept_share(round, rate=self.rate, warm=self.warm), 1.0
        if round and self.order != "none":
            found = self._sorted(data, share)
            ours, theirs = ranks.agreed(lambda: found)
            agreement = len(np.intersect1d(ours, theirs)) / len(ours)
            self.visits = torch.full_like(self.visits, -1)
            self.visits[: len(ours)] = torch.from_numpy(ours)
            self.partner[self.visits[: len(ours)]] = torch.from_numpy(theirs).to(self.partner.device)
        self.told = torch.tensor([share, agreement], dtype=torch.float64, device=self.told.device)
        return data

    @property
    def rows(self) -> np.ndarray | None:
        visits = self.visits[self.visits >= 0].cpu().numpy()
        return visits if len(visits) else None

    def loss(self, batch: Pairs) -> tuple[Tensor, Metrics]:
        losses, metrics = self._each(batch)
        share, agreement = self.told
        if self.training and self.order != "cut":
            kept = self._kept(metrics["rewards/margins"]).to(losses.dtype)
            losses = losses * kept * len(batch) / kept.sum(1, keepdim=True)
            agreement = kept.prod(0).sum() / kept[0].sum()
        told = {name: each.mean(0) for name, each in metrics.items()}
        told["crm/kept"] = share
        if self.training or self.order == "cut":
            told["crm/agreement"] = agreement
        return losses.sum(0), told

    @torch.no_grad()
    def weigh(self, batch: Pairs) -> Tensor | None:
        """[B] the share of the two models that would learn from a pair, if its batch was all there is."""
        if not self.rate:
            return None
        return self._kept(self._margins(batch)).double().mean(0)

    def score(self, groups: Groups) -> Tensor:
        return self.reward.members[0].score(groups)

    def _kept(self, margins: Tensor) -> Tensor:
        """[2, B] which pairs each model learns from, of margins [2, B]."""
        place = self._reviewed(margins).argsort(dim=1, descending=True, stable=True).argsort(1)
        return place < (self.told[0] * margins.shape[1] - ROUNDING).ceil()

    def _reviewed(self, margins: Tensor) -> Tensor:
        """[2, N] margins of those who choose for each model."""
        return margins.flip(0) if self.review == "peer" else margins

    def _margins(self, batch: Pairs) -> Tensor:
        """[2, B]"""
        r_w, r_l = zip(*(chosen_rejected(rewards, batch.label) for rewards in self.reward.each(batch)), strict=True)
        return torch.stack(r_w) - torch.stack(r_l)

    @torch.no_grad()
    def _sorted(self, data: Table, share: float) -> np.ndarray:
        """[2, M] rows that each model goes through, in its order."""
        learning = self.reward.training
        self.reward.eval()
        batches: Any = sequential(data, ROWS_AT_ONCE)
        margins = torch.cat([self._margins(batch.to(self.device)) for batch in batches], 1)
        self.reward.train(learning)
        if self.order == "sort_and_batch":
            margins, kept = margins.mean(0).expand(2, -1), len(data)
        else:
            margins, kept = self._reviewed(margins), math.ceil(share * len(data) - ROUNDING)
        return margins.argsort(dim=1, descending=True, stable=True)[:, :kept].cpu().numpy()

    def _seen(self, k: int, batch: Pairs) -> Pairs:
        if self.order != "cut":
            return batch
        self._orders = [self.partner.cpu()]
        return super()._seen(k, batch)

    def _extend(self) -> None:
        super()._extend()
        (partner,) = self._orders
        self.register_buffer("partner", partner)
        self.register_buffer("visits", torch.full_like(partner, -1))
        self.register_buffer("told", torch.ones(2, dtype=torch.float64))


def kept_share(round: int, *, rate: float, warm: float) -> float:
    """R(t)"""
    return 1 - min(round / warm, 1) * rate
