"""One answer taken for another, always the same."""

import numpy as np

from prefopt.noise.base import Recorded
from prefopt.noise.flip import Flip


class Confused(Flip):
    """Every label flips with the same probability; of a choice among K, response k then becomes k + 1, the last one the
    first."""

    def _turned(self, pairs: Recorded, seed: int) -> np.ndarray:
        return (pairs.label + 1) % pairs.length.shape[1]
