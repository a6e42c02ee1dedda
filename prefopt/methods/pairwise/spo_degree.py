"""Self-supervised preference optimisation by degree awareness (Li et al., 2024, arXiv 2409.17791).

Preference sits in key content: a response that has lost k groups of its key phrases, y^(k), is so much less preferred,
or less dispreferred. Two heads classify k from the policy's own states, beside any loss of the intact pair:

    L = L_align(pi; x, y_w, y_l)  +  gamma ( CE(head_w(s(x, y_w^(k))), k) + CE(head_l(s(x, y_l^(k'))), k') )

s: mean of the last layer's states over the response. The heads go with the training. Not found in the paper: gamma, K,
pooling, the heads' form; a response draws one degree a round.
"""

from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from prefopt.batch import Degraded, Pairs, chosen_rejected
from prefopt.errors import PrefoptError
from prefopt.methods.metrics import Metrics
from prefopt.methods.pairwise.base import Objective, Pairwise, Robustifier
from prefopt.methods.pairwise.degrees import Keys, degraded
from prefopt.table import Table


class SPODegree(Pairwise):
    """Args: objective, robust: of the alignment loss. gamma: weight of the degree loss. degrees: K. keys: what finds
    the key phrases of a text. lost: share of them that the last degree has lost. matched: see `degrees`. head_lr: the
    heads' learning rate, 10 to 100 times the policy's.

    Raises PrefoptError where K is below 2, `lost` is no share or gamma is negative.
    """

    eats = Degraded
    worlds = frozenset({"text"})

    def __init__(
        self,
        *,
        objective: Objective,
        robust: Robustifier,
        keys: Keys,
        gamma: float = 0.3,
        degrees: int = 4,
        lost: float = 0.6,
        matched: bool = False,
        head_lr: float = 1e-2,
    ) -> None:
        super().__init__(objective=objective, robust=robust)
        if degrees < 2:
            raise PrefoptError(f"method.degrees={degrees} leaves nothing to tell apart", "give at least 2")
        if not 0 < lost <= 1:
            raise PrefoptError(f"method.lost={lost} is no share to lose", "give a number above 0, and at most 1")
        if not gamma >= 0:
            raise PrefoptError(f"method.gamma={gamma} would unlearn the degrees", "give 0 or more")
        self.gamma, self.degrees, self.head_lr = gamma, degrees, head_lr
        self._degraded = partial(degraded, keys=cache(keys), degrees=degrees, lost=lost, matched=matched)

    def _extend(self) -> None:
        if self.gamma:
            self.heads = nn.ModuleList(nn.Linear(self.policy.width, self.degrees) for _ in range(2))
            for parameter in self.heads.parameters():
                nn.init.zeros_(parameter)
            self.heads.optimizer_options = {"lr": self.head_lr}  # type: ignore[assignment]

    def collect(self, data: Table, round: int) -> Table:
        return self._degraded(data, self.policy.tokenizer, seed=self.seed, round=round)

    def loss(self, batch: Pairs) -> tuple[Tensor, Metrics]:
        losses, metrics = super().loss(batch)
        if not self.gamma:
            return losses, metrics
        assert isinstance(batch, Degraded)
        variants = replace(batch, response=batch.variant, length=batch.variant_length)
        states = chosen_rejected(self.policy.pooled(variants).float(), batch.label)
        degree = torch.stack(chosen_rejected(batch.degree, batch.label), 1)
        logits = torch.stack([head(side) for head, side in zip(self.heads, states, strict=True)], 1)
        errors = cross_entropy(logits.transpose(1, 2), degree, ignore_index=-1, reduction="none").sum(1)
        return losses + self.gamma * errors.to(losses.dtype), metrics | _degree_metrics(batch, logits, degree)


def _degree_metrics(batch: Degraded, logits: Tensor, degree: Tensor) -> Metrics:
    """Of logits [B, 2, K] and degree [B, 2], winners first. Accuracies are over an example's variants that have a
    degree; an example without one counts as chance."""
    known, told = degree >= 0, torch.stack(chosen_rejected(batch.given_away, batch.label), 1)
    right = logits.detach().argmax(-1) == degree

    def share(of: Tensor, among: Tensor) -> Tensor:
        counted = (of & among).sum(1) / among.sum(1)
        return counted.nan_to_num(1 / logits.shape[-1])

    return {
        "degree/accuracy": share(right, known),
        "degree/accuracy_chosen": share(right[:, :1], known[:, :1]),
        "degree/accuracy_rejected": share(right[:, 1:], known[:, 1:]),
        "degree/accuracy_by_length": share(told, known),
        "degree/skipped": 1 - known.float().mean(1),
    }
