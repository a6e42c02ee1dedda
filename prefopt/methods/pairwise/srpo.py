"""Self-improving robust preference optimisation (Choi et al., 2024, arXiv 2406.01660).

One network learns a policy pi(y | x) and, under a prompt that shows an earlier answer y', its revisions pi+(y | y', x).
With lr = log pi/ref of the one and ld(a | b) = log pi+(a | b)/ref(a | b) of the other, the solutions of

    min over pi, max over pi+ of  E[ p(y2 > y1) ] - beta KL(pi+ || ref) + beta KL(pi || ref),  y1 ~ pi, y2 ~ pi+(. | y1)

obey identities in every two answers, which squared errors, with the label in the place of p, fit from any law of pairs:

    gen = ( beta [ld(w|l) + lr(w) - ld(l|w) - lr(l)] - 1 )^2
    imp = ( 1/2 - beta [ld(w|l) - ld(l|l)] )^2  +  ( 1/2 - beta [ld(w|w) - ld(l|w)] )^2
    L   = (1 - alpha) gen + alpha imp

No Bradley-Terry model is assumed. `method=self_revision` revises what the policy answers.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from prefopt.batch import Groups, Revised, chosen_rejected
from prefopt.engine.loader import sequential
from prefopt.errors import PrefoptError
from prefopt.methods.base import Method
from prefopt.methods.metrics import Metrics
from prefopt.methods.pairwise.base import Robustifier
from prefopt.methods.revision import revised_logps
from prefopt.table import Table

AT_ONCE = 64


class SRPO(Method):
    """Args: beta: price of a nat of KL. alpha: weight of the revisions, in [0, 1]. robust: as in the pairwise family.

    All log-probs are sums over tokens. The frozen reference's are computed once, in the first round.
    """

    eats = Revised
    roles = ("policy", "reference")

    def __init__(self, *, robust: Robustifier, beta: float = 0.1, alpha: float = 0.5) -> None:
        super().__init__()
        self.robust, self.beta, self.alpha, self.coupled = robust, beta, alpha, robust.coupled
        self._known: dict[str, np.ndarray] = {}

    @torch.no_grad()
    def collect(self, data: Table, round: int) -> Table:
        if self.reference is None:
            raise PrefoptError(
                "method.needs.reference=cached, and no cache knows what the reference thinks of revisions",
                "use method.needs.reference=copy, or adapter",
            )
        if (key := data.checksum()) not in self._known:
            batches = (batch.to(self.device) for batch in sequential(data, AT_ONCE))
            found = [revised_logps(self.reference, batch).flatten(1).cpu() for batch in batches]
            self._known[key] = torch.cat(found).numpy()
        return replace(data, kind=Revised, columns={**data.columns, "revised_reference": self._known[key]})

    def loss(self, batch: Revised) -> tuple[Tensor, Metrics]:
        lr, right, flipped = self._sides(batch)
        w, l = chosen_rejected(self.beta * lr.detach(), batch.label)  # noqa: E741
        metrics = {"rewards/chosen": w, "rewards/rejected": l, "rewards/margins": w - l}
        metrics["rewards/accuracies"] = (w > l).float()
        return self.robust(right, flipped, batch), metrics | self.robust.facts()

    def _sides(self, batch: Revised) -> tuple[Tensor, Tensor, Tensor]:
        """[B, 2] lr of the responses, and L of the pair as recorded and as flipped, [B] each."""
        lr = (self.policy.logps(batch) - self.reference_logps(batch)).sum(-1)
        ld = revised_logps(self.policy, batch) - batch.revised_reference.view(-1, 2, 2)
        right, flipped = (self._error(lr, ld, label) for label in (batch.label, 1 - batch.label))
        return lr, right, flipped

    def _error(self, lr: Tensor, ld: Tensor, label: Tensor) -> Tensor:
        lr_w, lr_l = chosen_rejected(lr, label)
        (w_w, l_w), (w_l, l_l) = (chosen_rejected(given, label) for given in chosen_rejected(ld, label))
        gen = (self.beta * (w_l + lr_w - l_w - lr_l) - 1) ** 2
        imp = (0.5 - self.beta * (w_l - l_l)) ** 2 + (0.5 - self.beta * (w_w - l_w)) ** 2
        return (1 - self.alpha) * gen + self.alpha * imp

    @torch.no_grad()
    def weigh(self, batch: Revised) -> Tensor | None:
        _, right, flipped = self._sides(batch)
        return self.robust.trust(right, flipped, batch)

    def score(self, groups: Groups) -> Tensor:
        return self.beta * (self.policy.logps(groups) - self.reference_logps(groups)).sum(-1)
