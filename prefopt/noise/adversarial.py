"""The worst labels to lose."""

import numpy as np

from prefopt.noise.base import Noise, Recorded, uniform


class Adversarial(Noise):
    """Exactly floor(rate N) pairs flip: those with the largest margins, ties by hash (all that the seed decides)."""

    def flips(self, pairs: Recorded, seed: int) -> np.ndarray:
        worst = np.lexsort((uniform(pairs.ids, seed), -self.needed(pairs, "margin")))
        flipped = np.zeros(len(worst), dtype=bool)
        flipped[worst[: int(self.rate * len(worst))]] = True
        return flipped
