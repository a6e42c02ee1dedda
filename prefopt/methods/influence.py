"""How much a pair counts, by what the policy already says of it: the influence weight -d loss / d margin."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from prefopt.batch import Groups, Pairs
from prefopt.errors import PrefoptError
from prefopt.methods.base import Method
from prefopt.methods.pairwise.base import Pairwise

REACH, POINTS = 6.0, 241


@dataclass(frozen=True)
class Curve:
    """margin: [N] implied reward of the recorded winner less that of the loser. weight: [N] -d loss / d margin."""

    margin: np.ndarray
    weight: np.ndarray


class Given(nn.Module):
    """A policy whose log-probs [B, 2, 1] are given."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values

    def logps(self, groups: Groups) -> Tensor:
        return self.values[groups.index]

    def collisions(self, groups: Groups) -> Tensor:
        return self.values.detach()[groups.index]


def influence(method: Method) -> Curve:
    """The weight of every pair of a batch with margins spread evenly over [-REACH, REACH], through the loss itself.

    Responses are of one token, and recorded margins are 1. The policy prefers one response as much as it avoids the
    other, and the reference is indifferent.
    Raises PrefoptError where the loss of a method is not a function of the margin.
    """
    alone = isinstance(method, Pairwise) and set(method.roles) <= {"policy", "reference"}
    if not (alone and method.eats is Pairs and "exact" in method.worlds and method.per_round is None):
        raise PrefoptError(
            f"{type(method).__name__} has no influence weight: its loss is not a function of the margin alone",
            "choose a method that is a product of an objective and a robustifier, as in python -m prefopt.methods",
        )
    assert isinstance(method, Pairwise)
    margin = torch.linspace(-REACH, REACH, POINTS, dtype=torch.float64)
    x = margin / _slope(method)
    base = -float(x.abs().max()) / 2 - 1
    values = (base + torch.stack([x, -x], 1)[..., None] / 2).requires_grad_()
    method.policy, method.reference = Given(values), Given(torch.full_like(values, base))
    losses, _ = method.eval().loss(_batch(base))
    (gradient,) = torch.autograd.grad(losses.sum(), values)
    along = (gradient[:, 0, 0] - gradient[:, 1, 0]) / 2
    return Curve(margin.numpy(), (-along / _slope(method)).numpy())


def _slope(method: Pairwise) -> float:
    """Reward a nat, around the reference."""
    logps = torch.full((1, 1), -1.0, dtype=torch.float64, requires_grad=True)
    reward = method.objective.reward(logps, logps.detach(), torch.ones(1))
    return float(torch.autograd.grad(reward.sum(), logps)[0])


def _batch(reference: float) -> Pairs:
    one = torch.ones(POINTS, 2, 1, dtype=torch.long)
    return Pairs(
        index=torch.arange(POINTS),
        prompt=one[:, 0],
        prompt_length=one[:, 0, 0],
        response=one,
        length=one[..., 0],
        mean_length=torch.tensor(1.0),
        reference=torch.full((POINTS, 2, 1), reference, dtype=torch.float64),
        label=torch.zeros(POINTS, dtype=torch.long),
        margin=torch.ones(POINTS, dtype=torch.float64),
    )
