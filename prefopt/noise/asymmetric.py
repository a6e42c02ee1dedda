"""Position bias."""

import numpy as np

from prefopt.errors import PrefoptError
from prefopt.noise.base import Noise, Recorded, uniform


class Asymmetric(Noise):
    """Winners that stand second flip `ratio` times as often as those that stand first; `rate` is the mean of the two.

    Responses stand in an order fixed by a hash of the id, so half of the winners stand first in any dataset. In the
    order of a file, winner first, this would be symmetric noise under another name. A policy never sees positions, so
    on average the symmetric model stays right, pair by pair it is wrong.
    """

    def __init__(self, *, rate: float, assumed: float | str, ratio: float) -> None:
        super().__init__(rate=rate, assumed=assumed)
        if not (isinstance(ratio, (int, float)) and 0 <= ratio < float("inf")):
            raise PrefoptError(
                f"noise.ratio={ratio!r} is not a number >= 0", "noise.ratio=0.5: second winners flip half as often"
            )
        self.reached(0, (1 + ratio) / (2 * max(1, ratio)))
        self.by_position = rate * np.array([2, 2 * ratio]) / (1 + ratio)

    def flips(self, pairs: Recorded, seed: int) -> np.ndarray:
        return uniform(pairs.ids, seed) < self.by_position[pairs.label]
