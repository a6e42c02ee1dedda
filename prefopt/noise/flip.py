"""Symmetric flips."""

import numpy as np

from prefopt.noise.base import Noise, Recorded, uniform


class Flip(Noise):
    """Every label flips with the same probability, whatever the pair and the split: the model of rDPO. Of a choice
    among K it becomes any of the others: redrawn among all K with probability nu it would be one of them at the rate
    nu (K - 1) / K."""

    of_choices = True

    def flips(self, pairs: Recorded, seed: int) -> np.ndarray:
        return uniform(pairs.ids, seed) < self.rate
