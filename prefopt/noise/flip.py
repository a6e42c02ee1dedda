"""Symmetric flips."""

import numpy as np

from prefopt.noise.base import Noise, Recorded, uniform


class Flip(Noise):
    """Every label flips with the same probability, whatever the pair and the split: the model of rDPO."""

    def flips(self, pairs: Recorded, seed: int) -> np.ndarray:
        return uniform(pairs.ids, seed) < self.rate
