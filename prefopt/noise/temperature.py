"""Labels redrawn at a temperature."""

import numpy as np
from scipy.special import expit

from prefopt.noise.base import Noise, Recorded, uniform


class Temperature(Noise):
    """Bradley-Terry at temperature T: pair i flips with probability sigmoid(-|margin_i| / T), T solved for the mean.

    Ties flip half of the time at any T, so a split with many of them has a smallest rate.
    """

    cap = 0.5

    def flips(self, pairs: Recorded, seed: int) -> np.ndarray:
        margin = np.abs(self.needed(pairs, "margin"))
        temperature = self.level(lambda t: expit(-margin / t).mean())
        u = uniform(pairs.ids, seed)
        return margin < temperature * np.log((1 - u) / u)
