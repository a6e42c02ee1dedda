"""Annotators of different care."""

import numpy as np

from prefopt.noise.base import Recorded
from prefopt.noise.weighted import Weighted, exponential


class Annotators(Weighted):
    """Every annotator has a flip rate of their own, drawn from Exp(1) and scaled; the worst toss a coin."""

    cap = 0.5

    def weights(self, pairs: Recorded, seed: int) -> np.ndarray:
        return exponential(self.needed(pairs, "annotator"), seed, "annotator")
