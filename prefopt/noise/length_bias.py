"""A taste for length."""

import numpy as np

from prefopt.noise.base import Recorded
from prefopt.noise.weighted import Weighted


class LengthBias(Weighted):
    """Only pairs whose winner is the shorter response flip, all alike; their share is the largest rate."""

    def weights(self, pairs: Recorded, seed: int) -> np.ndarray:
        rows = np.arange(len(pairs.label))
        return (pairs.length[rows, pairs.label] < pairs.length[rows, 1 - pairs.label]).astype(float)
