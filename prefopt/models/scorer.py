"""What judges responses: one protocol, a scale that judges can be compared on, and ways to make one of several.

Aggregates are over members on a common scale: Bradley-Terry leaves a reward's offset open, and its scale differs by
seed, so that the minimum of two that were not standardised compares unlike units.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prefopt.batch import Groups
from prefopt.errors import PrefoptError

ROUNDING = 1e-6
"""Of a reward's size, in float32: what differs by less is the same."""


class Scorer:
    """Whatever judges responses: by a reward each, or by a table of its own where preferences may run in circles.

    alone: whether a response has its reward by itself, and not against the others of its group.
    """

    alone: ClassVar[bool] = True

    def score(self, groups: Groups) -> Tensor:
        """[B, n] reward of each response."""
        raise NotImplementedError

    def table(self, groups: Groups) -> Tensor:
        """[B, n, n] log-odds that response i is preferred to response j; skew-symmetric."""
        r = self.score(groups)
        return r[:, :, None] - r[:, None, :]

    def steps(self, groups: Groups) -> Tensor:
        """[B, n, T] rewards of the steps that add up to that of a response; of one that is no sum, the whole."""
        return self.score(groups)[..., None]

    def margin(self, pairs: Groups) -> Tensor:
        """[B] log-odds that response 0 is preferred to response 1."""
        return self.table(pairs)[:, 0, 1]


class Standardised(nn.Module, Scorer):
    """(r - mean) / sd, with those that `moments` has measured."""

    mean: Tensor
    sd: Tensor

    def __init__(self, scorer: Any, mean: float, sd: float) -> None:
        super().__init__()
        self.scorer = scorer
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64))
        self.register_buffer("sd", torch.tensor(sd, dtype=torch.float64))

    def score(self, groups: Groups) -> Tensor:
        return self._scaled(self.scorer.score(groups))

    def _scaled(self, r: Tensor) -> Tensor:
        return (r - self.mean.to(r.dtype)) / self.sd.to(r.dtype)


@torch.no_grad()
def moments(scorer: Any, samples: Iterable[Groups]) -> tuple[float, float]:
    """Mean and population standard deviation of a scorer's rewards over samples of the reference policy.

    Raises PrefoptError where a reward is not finite, or where all are the same.
    """
    return spread(torch.cat([scorer.score(groups).double().flatten().cpu() for groups in samples]))


def spread(rewards: Tensor, law: Tensor | None = None) -> tuple[float, float]:
    """The same of rewards that are there already, which come up in proportion to `law` where they are not all alike."""
    if constant(finite(rewards)):
        raise PrefoptError(
            f"a reward model gives all of {rewards.numel()} responses the same reward, {rewards.flatten()[0]:.4g}",
            "it has learned nothing: train it for longer (rounds) or on more pairs",
        )
    share = torch.ones_like(rewards) / rewards.numel() if law is None else law / law.sum()
    mean = (share * rewards).sum()
    return float(mean), float((share * (rewards - mean) ** 2).sum().sqrt())


def constant(rewards: Tensor) -> bool:
    """Whether they are finite and all the same, but for rounding."""
    most = rewards.abs().max()
    return bool(most.isfinite() and rewards.max() - rewards.min() <= ROUNDING * most)


def centred(rewards: Tensor, reference: Tensor) -> Tensor:
    """[..., C, R] rewards with mean 0 under the reference in each context, and sd 1 over all contexts.

    reference: [C, R] its log-probs. Raises PrefoptError where a reward is not finite, or is the same for all responses
    of a context, in every context.
    """
    law = reference.exp()
    r = finite(rewards) - (law * rewards).sum(-1, keepdim=True)
    sd = (law * r**2).sum(-1).mean(-1).sqrt()
    if not (sd > 1e-12 * rewards.abs().amax((-2, -1)).clamp(min=1)).all():
        raise PrefoptError(
            "a reward model likes all responses to a prompt alike",
            "it has learned nothing: train it for longer (rounds) or on more pairs",
        )
    return r / sd[..., None, None]


def finite(rewards: Tensor) -> Tensor:
    """The rewards. Raises PrefoptError where one is not finite."""
    if lost := int((~rewards.isfinite()).sum()):
        raise PrefoptError(
            f"a reward model gives {lost} of {rewards.numel()} responses a reward that is not finite",
            "train it with a lower learning rate (optimizer.lr), or look at the data that it learned from",
        )
    return rewards


def mean(rewards: Tensor) -> Tensor:
    """[k, ...] -> [...]"""
    return rewards.mean(0)


def worst_case(rewards: Tensor) -> Tensor:
    """[k, ...] -> [...] what the least convinced member says (Coste et al., 2024, arXiv 2310.02743, WCO)."""
    return rewards.amin(0)


def uncertainty_weighted(rewards: Tensor, lam: float) -> Tensor:
    """[k, ...] -> [...] mean - lam times the population variance over members (ibid., UWO). lam: >= 0."""
    if not lam >= 0:
        raise PrefoptError(f"method.aggregate.lam={lam} rewards disagreement", "give a number >= 0; 0.5 is usual")
    return rewards.mean(0) - lam * rewards.var(0, correction=0)
