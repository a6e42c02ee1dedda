"""The same per-token log-probs for us and for TRL, and our losses of them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from prefopt.batch import Groups, Pairs
from prefopt.methods.base import Method

B, P, T = 16, 3, 7

Losses = tuple[Tensor, Tensor]
"""Losses [B], or their mean, and the gradient of their mean in the log-probs."""


class Numbers(nn.Module):
    """A policy over fifty tokens whose log-probs [B, n, T] are given."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)

    def logps(self, groups: Groups) -> Tensor:
        return self.values[groups.index] * groups.mask

    def collisions(self, groups: Groups) -> Tensor:
        return (2 * self.logps(groups).detach()).clamp(min=-3.9)


@pytest.fixture(scope="session")
def batch() -> Pairs:
    draw = torch.Generator().manual_seed(0)
    length = torch.randint(1, T + 1, (B, 2), generator=draw)
    length[0] = T
    reference = -4 * torch.rand(B, 2, T, generator=draw, dtype=torch.float64)
    return Pairs(
        index=torch.arange(B),
        prompt=torch.ones(B, P, dtype=torch.long),
        prompt_length=torch.full((B,), P),
        response=torch.ones(B, 2, T, dtype=torch.long),
        length=length,
        mean_length=length.float().mean(),
        reference=reference * (torch.arange(T) < length[..., None]),
        label=torch.randint(0, 2, (B,), generator=draw),
    )


@pytest.fixture(scope="session")
def numbers() -> type[Numbers]:
    return Numbers


@pytest.fixture
def policy() -> Numbers:
    draw = torch.Generator().manual_seed(1)
    return Numbers(-4 * torch.rand(B, 2, T, generator=draw, dtype=torch.float64))


@pytest.fixture
def ours(policy: Numbers) -> Callable[[Method, Groups], Losses]:
    def losses(method: Method, batch: Groups, policy: Numbers = policy) -> Losses:
        optimizer = torch.optim.SGD
        cast = {"policy": policy, "reference": None}
        method.prepare(cast, optimizer=optimizer, schedule=lambda _: 1.0, micro_batch_size=None, clip=None, seed=0)
        found, _ = method.loss(batch)
        return found.detach(), torch.autograd.grad(found.mean(), policy.values)[0]

    return losses


@pytest.fixture(scope="session")
def agree() -> Callable[[Losses, Losses], None]:
    def check(a: Losses, b: Losses) -> None:
        for one, other in zip(a, b, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)

    return check
