"""Annotators of different care."""

from collections.abc import Sequence

import numpy as np

from prefopt.errors import PrefoptError
from prefopt.noise.base import Recorded
from prefopt.noise.weighted import Weighted, exponential


class Annotators(Weighted):
    """Every annotator has a flip rate of their own, scaled to a mean over pairs of `rate`; the worst toss a coin.

    Args: rates: their flip rates up to that scale, in the order of the annotators' names; drawn from Exp(1) where it is
    None. Raises `PrefoptError` where there are more annotators than rates, or fewer.
    """

    cap = 0.5

    def __init__(self, *, rate: float, assumed: float, rates: Sequence[float] | None = None) -> None:
        super().__init__(rate=rate, assumed=assumed)
        if rates is not None and not all(0 <= each <= self.cap for each in rates):
            raise PrefoptError(f"noise.rates={list(rates)} are not all in [0, {self.cap}]", "as noise.rates=[0.1,0.3]")
        self.rates = rates

    def weights(self, pairs: Recorded, seed: int) -> np.ndarray:
        annotators = self.needed(pairs, "annotator")
        if self.rates is None:
            return exponential(annotators, seed, "annotator")
        names, member = np.unique(annotators, return_inverse=True)
        if len(names) != len(self.rates):
            raise PrefoptError(
                f"noise.rates has {len(self.rates)} rates, and the training pairs have {len(names)} annotators",
                f"give one for each of {', '.join(map(str, names[:20]))}",
            )
        return np.array(self.rates, dtype=float)[member]
