"""Close calls go wrong."""

import numpy as np

from prefopt.noise.base import Recorded
from prefopt.noise.weighted import Weighted


class Margin(Weighted):
    """Close pairs flip more: w = exp(-|margin| / median |margin|) (1 for median 0), at worst a coin toss."""

    cap = 0.5

    def weights(self, pairs: Recorded, seed: int) -> np.ndarray:
        margin = np.abs(self.needed(pairs, "margin"))
        return np.exp(-margin / (np.median(margin) or 1.0))
