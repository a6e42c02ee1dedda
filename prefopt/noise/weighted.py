"""Noise to which some pairs are more prone than others."""

from abc import abstractmethod

import numpy as np

from prefopt.noise.base import Noise, Recorded, uniform


class Weighted(Noise):
    """Pair i flips with probability min(cap, t w_i), its mean solved to be `rate`."""

    @abstractmethod
    def weights(self, pairs: Recorded, seed: int) -> np.ndarray:
        """[N] w >= 0, how prone each pair is."""

    def flips(self, pairs: Recorded, seed: int) -> np.ndarray:
        weights = self.weights(pairs, seed)
        t = self.level(lambda t: np.minimum(self.cap, t * weights).mean())
        return uniform(pairs.ids, seed) < np.minimum(self.cap, t * weights)


def exponential(members: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """[N] one draw from Exp(1) for each distinct member, a pure function of (its name, seed)."""
    names, member = np.unique(members, return_inverse=True)
    return -np.log(uniform(names.astype(str), seed, purpose))[member]
