"""All that an audit finds, before it is written down."""

from dataclasses import dataclass

import numpy as np

from prefopt.audit.breakdown import Part, parts
from prefopt.audit.estimate import HEADLINE, Estimate, estimates
from prefopt.audit.features import differences
from prefopt.audit.likelihood import Rate, logistic
from prefopt.audit.margins import out_of_fold
from prefopt.datasets.data import Data


@dataclass(frozen=True)
class Findings:
    """margins: [N] out of fold, of the recorded labels. fit: what noisy Bradley-Terry makes of them. estimates: by
    name, the headline first. parts: the breakdown. features: how many there are.
    """

    margins: np.ndarray
    fit: Rate
    estimates: dict[str, Estimate]
    parts: list[Part]
    features: int

    @property
    def headline(self) -> Estimate:
        return self.estimates[HEADLINE]

    @property
    def disagreeing(self) -> list[str]:
        """Estimators whose interval does not meet the headline's: their assumptions cannot both hold."""
        low, high = self.headline.low, self.headline.high
        return [name for name, other in self.estimates.items() if other.low > high or other.high < low]

    @property
    def suspicion(self) -> np.ndarray:
        """[N] P(flipped | pair, recorded label) = e (1 - p) / (e (1 - p) + (1 - e) p),  p = sigmoid(a m)."""
        e, p = self.fit.rate, logistic(self.fit.scale * self.margins)
        return e * (1 - p) / np.maximum(e * (1 - p) + (1 - e) * p, np.finfo(float).tiny)

    @property
    def suspicious(self) -> np.ndarray:
        """Rows of the pairs that contradict what is predicted most: as many as are estimated to be flipped, and 20 at
        least."""
        expected = round(self.headline.rate * len(self.margins))
        return np.argsort(self.margins, kind="stable")[: max(20, expected)]


def audited(data: Data, *, seed: int) -> Findings:
    """Audit the training labels, from what is recorded alone. Raises PrefoptError, see `differences`."""
    seen = differences(data)
    margins = out_of_fold(seen, data.train.pairs.columns["label"], seed=seed)
    found, fit = estimates(margins, seed=seed)
    return Findings(margins, fit, found, parts(data.train.pairs, margins), seen.shape[1])
