"""No noise."""

import numpy as np

from prefopt.errors import PrefoptError
from prefopt.noise.base import Noise, Recorded


class Clean(Noise):
    """Labels stay as they were recorded; a rate other than 0 raises `PrefoptError`."""

    of_choices = True

    def __init__(self, *, rate: float, assumed: float | str) -> None:
        super().__init__(rate=rate, assumed=assumed)
        if rate:
            raise PrefoptError(
                f"noise.rate={rate:g} asks noise=none to turn labels",
                f"noise=flip noise.rate={rate:g} (or asymmetric, temperature, margin, annotators, groups, length_bias,"
                " adversarial); a belief alone is noise.assumed",
            )

    def flips(self, pairs: Recorded, seed: int) -> np.ndarray:
        return np.zeros(len(pairs.ids), dtype=bool)
