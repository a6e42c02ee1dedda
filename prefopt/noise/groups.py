"""Groups that were labelled with different care."""

import numpy as np

from prefopt.noise.base import Recorded
from prefopt.noise.weighted import Weighted, exponential


class Groups(Weighted):
    """Every group has a flip rate of its own, drawn from Exp(1) and scaled; the worst is a coin toss."""

    cap = 0.5

    def weights(self, pairs: Recorded, seed: int) -> np.ndarray:
        return exponential(self.needed(pairs, "group"), seed, "group")
