"""Pairs with given log-probs, and a small bandit, for numbers that are known."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from prefopt.batch import Groups, Pairs
from prefopt.datasets.bandit import Bandit
from prefopt.datasets.data import Data
from prefopt.methods.base import Method
from prefopt.methods.pairwise.pair import Pair, Side

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


def spread(total: Any, length: int) -> Tensor:
    """[1, length] log-probs that sum to `total`, unevenly."""
    weights = torch.arange(1, length + 1, dtype=torch.float64)
    return (weights / weights.sum() * total)[None]


@pytest.fixture(scope="session")
def pair() -> Callable[..., Pair]:
    """One pair from summed log-probs of the winner and the loser, of their reference, and their lengths."""

    def make(w: Any, l: Any = 0.0, ref_w: Any = 0.0, ref_l: Any = 0.0, lengths: Sequence[int] = (1, 1)) -> Pair:  # noqa: E741
        n_w, n_l = lengths
        return Pair(
            Side(spread(w, n_w), spread(ref_w, n_w), torch.tensor([n_w])),
            Side(spread(l, n_l), spread(ref_l, n_l), torch.tensor([n_l])),
            mean_length=torch.tensor((n_w + n_l) / 2),
        )

    return make


class Numbers(nn.Module):
    """A policy that is a table of log-probs [B, n, T], looked up by the example's index."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)

    def logps(self, groups: Groups) -> Tensor:
        return self.values[groups.index]

    def score(self, groups: Groups) -> Tensor:
        return self.logps(groups).sum(-1)


@pytest.fixture(scope="session")
def numbers() -> type[Numbers]:
    return Numbers


@pytest.fixture(scope="session")
def prepared() -> Callable[..., Any]:
    """A method with its roles."""

    def prepare(method: Method, **roles: Any) -> Method:
        optimizer = torch.optim.SGD
        method.prepare(roles, optimizer=optimizer, schedule=lambda _: 1.0, micro_batch_size=None, clip=None, seed=3)
        return method

    return prepare


@pytest.fixture(scope="session")
def pairs_of() -> Callable[..., Pairs]:
    """A batch of pairs [B, 2] of these lengths and labels."""

    def make(length: Tensor, label: Tensor, reference: Tensor | None = None) -> Pairs:
        B, T = len(length), int(length.max())
        return Pairs(
            index=torch.arange(B),
            prompt=torch.ones(B, 1, dtype=torch.long),
            prompt_length=torch.ones(B, dtype=torch.long),
            response=torch.ones(B, 2, T, dtype=torch.long),
            length=length,
            mean_length=length.float().mean(),
            reference=reference,
            label=label,
        )

    return make


@pytest.fixture(scope="session")
def bandit() -> Data:
    return Bandit(pairs=64, test_pairs=64, contexts=6, responses=5, dimension=3, seed=4).load()
