"""Ratios of what two arms took, with an interval over blocks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVEL, DRAWS = 0.90, 5000


class Ratio(NamedTuple):
    """A figure, and the ends of its 90 % bootstrap interval."""

    value: float
    low: float
    high: float


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> Ratio:
    """Sum over sum; blocks are drawn with what both arms took in them."""
    pairs = np.stack([theirs, ours], -1)
    drawn = np.random.default_rng(0).integers(len(pairs), size=(DRAWS, len(pairs)))
    sums = pairs[drawn].sum(1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Ratio(float(np.divide(*pairs.sum(0))), float(low), float(high))


def mean(values: Sequence[float]) -> Ratio:
    return ratio(values, np.ones(len(values)))


def dealt(seconds: Sequence[float], weights: Sequence[int], blocks: int) -> list[float]:
    """Seconds of `blocks` blocks: steps are dealt out in the order of `weights`, there and back again, so that each
    block has long and short batches alike."""
    sums = [0.0] * blocks
    there_and_back = [*range(blocks), *reversed(range(blocks))]
    for place, step in enumerate(np.argsort(weights, kind="stable")):
        sums[there_and_back[place % len(there_and_back)]] += seconds[step]
    return sums
