"""The flip rate of recorded preferences, by three estimators."""

from dataclasses import dataclass

import numpy as np

from prefopt.audit.confident import extrapolated
from prefopt.audit.features import differences
from prefopt.audit.likelihood import Rate, logistic, maximum, normal, profiled
from prefopt.audit.margins import out_of_fold
from prefopt.datasets.data import Data

WIDEST = 0.25
"""Of an interval that can be acted on: half of all that a flip rate can be."""
SIGNAL = 30.0
"""Nats above tossed coins that make an interval's lower end trustworthy. Below, intervals cover as often as they say,
but the narrow ones among them cover half to two thirds of the time: a steep rise to a plateau can be an accident."""
HIGHEST = 0.499
"""A rate of one half would leave nothing to learn, and methods divide by 1 - 2e."""
HEADLINE = "reliability"
ASSUMES = {
    "reliability": "Bradley-Terry at all margins; flips alike for all pairs",
    "confident": "close calls die out exponentially above the confident half",
    "mixture": "Thurstone (normal errors) at all margins; flips alike for all pairs",
}


@dataclass(frozen=True)
class Estimate:
    """A flip rate in [0, 1/2) with its 90 % interval; sound: whether it can be acted on, and why (not)."""

    rate: float
    low: float
    high: float
    sound: bool
    why: str

    def __str__(self) -> str:
        between = f"[{self.low:.3f}, {self.high:.3f}]"
        return f"{self.rate:.3f} {between}" if self.sound else between


def flip_rate(data: Data, *, seed: int) -> Estimate:
    """The flip rate of the training labels, from what is recorded alone; the same for the same data and seed.

    Raises PrefoptError where there are too few pairs or nothing tells their responses apart, see `differences`.
    """
    margins = out_of_fold(differences(data), data.train.pairs.columns["label"], seed=seed)
    return reliability(margins)[0]


def estimates(margins: np.ndarray, *, seed: int) -> tuple[dict[str, Estimate], Rate]:
    """What each estimator says, the headline first, and the fit that goes with the headline."""
    headline, fit = reliability(margins)
    return {HEADLINE: headline, "confident": confident(margins, seed=seed), "mixture": mixture(margins)}, fit


def reliability(margins: np.ndarray) -> tuple[Estimate, Rate]:
    """Maximum likelihood of noisy Bradley-Terry, q = (1 - 2e) sigmoid(a m) + e, over e and a, with the profile interval
    of e.

    It is what the EM of Cao et al. 2025 (arXiv 2509.24159), with one annotator and the margins of a fixed model, goes
    to: 1 - e = eta, the reliability. Instead of its steps the whole likelihood is looked at, so it cannot stop on a
    ridge; where EM would collapse (e to 1/2, or no e better than another because all p are near 1/2) the interval says
    so. Assumes Bradley-Terry preferences at all margins and flips that strike all pairs alike.
    """
    found = profiled(margins, logistic)
    return judged(found, margins), found


def mixture(margins: np.ndarray) -> Estimate:
    """A mixture of two densities of the margin, mirror images of each other: clean pairs g(m), flipped ones g(-m).

    As Arazo et al. 2019 (arXiv 1904.11238) and DivideMix (Li et al. 2020, arXiv 2002.07394) part losses in two
    components; a swapped pair, however, is a clean one seen in a mirror, so one density will do, the skew normal

        f(m) = (1 - e) g(m) + e g(-m),    g(m) = (2/s) phi(m/s) Phi(a m) = h(m) Phi(a m),    h(m) = h(-m)

    The even factor h drops out of the likelihood of e and a, whatever it is. Assumes normal errors of judgement
    (Thurstone): lighter tails than Bradley-Terry's, so its flip rates are higher; by how much says what the form of
    people's mistakes matters.
    """
    return judged(profiled(margins, normal), margins)


def confident(margins: np.ndarray, *, seed: int) -> Estimate:
    """Cross-validated confident learning, extrapolated to full confidence; see `extrapolated`."""
    return judged(extrapolated(margins, seed=seed), margins)


def judged(found: Rate, margins: np.ndarray) -> Estimate:
    """The rate of all pairs with a verdict on it."""
    said = f"{len(margins)} pairs, {np.mean(margins > 0):.0%} of them recorded as predicted"
    return decided(found, maximum(margins, logistic), said)


def decided(found: Rate, signal: float, said: str) -> Estimate:
    """Sound, with what is `said` of it, where the interval is narrow enough to act on and the margins carry `signal`
    nats; where they carry too few, what is left is the interval from 0 to the upper end."""
    rate, low, high = min(found.rate, HIGHEST), found.low, found.high
    if signal < SIGNAL:
        coin = f"the features predict the labels little better than a tossed coin ({signal:.0f} nats in all)"
        return Estimate(rate, 0.0, high, False, f"{coin}: at most {high:.2f} are flipped, perhaps none")
    if high - low > WIDEST:
        wide = f"flips and close calls look alike: any rate from {low:.2f} to {high:.2f} fits"
        return Estimate(rate, low, high, False, wide)
    return Estimate(rate, low, high, True, said)
