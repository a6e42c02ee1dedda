"""Pairs and choices of an exact world, where a prompt is one context and a response one answer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from prefopt.batch import Choices, Groups, Pairs
from prefopt.datasets.corpus import order
from prefopt.datasets.data import Split, Truth
from prefopt.table import Ragged, Table


class ExactWorld:
    """A world with gold `rewards` [C, R] of all answers."""

    rewards: Tensor

    def reward(self, groups: Groups) -> Tensor:
        """[B, n] gold reward of each response."""
        return self.rewards.to(groups.prompt.device)[groups.prompt[:, :1], groups.response[..., 0]]


def labelled(
    world: Any,
    name: str,
    context: np.ndarray,
    winner: np.ndarray,
    loser: np.ndarray,
    known: Mapping[str, np.ndarray] | None = None,
) -> Split:
    """Pairs [N] of answers to contexts, as true labels prefer them, in the order that their ids fix: <name>-000000, ...

    world: with `rewards` [C, R]. known: recorded facts [N] of the pairs.
    """
    size = len(context)
    ids = np.array([f"{name}-{i:06d}" for i in range(size)])
    label = np.array([order(id) for id in ids], dtype=np.int64)
    both = np.where(label[:, None] == 0, np.stack([winner, loser], 1), np.stack([loser, winner], 1))
    pairs = Table(
        kind=Pairs,
        ids=ids,
        prompt=Ragged(context.astype(np.int32), np.arange(size + 1)),
        response=Ragged(both.astype(np.int32).ravel(), np.arange(2 * size + 1)),
        columns={"label": label},
        known=known or {},
    )
    gold = world.rewards.numpy()[context[:, None], both]
    return Split(pairs, Truth(label=label, flipped=np.zeros(size, dtype=bool), gold=gold))


def apportioned(shares: np.ndarray, size: int) -> np.ndarray:
    """[size] indices, each as often as its share says, rounded by largest remainders."""
    exact = shares * size
    counts = np.floor(exact + 1e-9).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: size - counts.sum()]] += 1
    return np.repeat(np.arange(len(shares)), counts)


def chosen(world: Any, name: str, context: np.ndarray, winner: np.ndarray) -> Split:
    """A choice among all answers for each context [N], as true labels [N] have it: <name>-000000, ..."""
    (size,), responses = context.shape, world.rewards.shape[1]
    choices = Table(
        kind=Choices,
        ids=np.array([f"{name}-{i:06d}" for i in range(size)]),
        prompt=Ragged(context.astype(np.int32), np.arange(size + 1)),
        response=Ragged(np.tile(np.arange(responses, dtype=np.int32), size), np.arange(responses * size + 1)),
        columns={"label": winner.astype(np.int64)},
    )
    gold = world.rewards.numpy()[context]
    return Split(choices, Truth(label=choices.columns["label"], flipped=np.zeros(size, dtype=bool), gold=gold))
