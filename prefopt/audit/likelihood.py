"""The likelihood of recorded labels under a flip rate, and the intervals that it gives."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.interpolate import PchipInterpolator
from scipy.special import expit, ndtr
from scipy.stats import chi2

LEVEL = 0.9
"""Of the intervals."""
DEPTH = 6.0
"""Nats below the maximum up to which the likelihood is looked at closely."""
COARSE = 0.02
"""And this share of the maximum, as long as the grid may have missed the very top."""
Link = Callable[[np.ndarray], np.ndarray]


def logistic(margins: np.ndarray) -> np.ndarray:
    """Bradley-Terry: the share of careful people who would choose as the margin says."""
    return expit(margins)


def normal(margins: np.ndarray) -> np.ndarray:
    """Thurstone: the same with normal errors, whose tails are lighter."""
    return ndtr(margins)


class Rate(NamedTuple):
    """A flip rate, its interval, and the scale a of the margins that goes with it."""

    rate: float
    low: float
    high: float
    scale: float


def surface(
    margins: np.ndarray, link: Link, scales: np.ndarray, rates: np.ndarray, member: np.ndarray | None = None
) -> np.ndarray:
    """[S, A, E] log-likelihood in nats of the labels of each of S parts, for scales a [A] and flip rates e [E],

        sum_i log q_i,    q_i = (1 - e) p_i + e (1 - p_i),    p_i = link(a m_i)

    margins: [N] m_i of the recorded labels. member: [N] the part 0 .. S-1 of each pair; None: all in one.
    """
    member = np.zeros(len(margins), np.int64) if member is None else member
    parts = sp.csr_array((np.ones(len(margins)), (member, np.arange(len(margins)))))
    found = []
    for scale in scales:
        p = link(scale * margins)
        q = rates + (1 - 2 * rates) * p[:, None]
        found.append(parts @ np.log(np.maximum(q, np.finfo(float).tiny)))
    return np.stack(found, axis=1)


def maximum(margins: np.ndarray, link: Link) -> float:
    """The largest log-likelihood over scale and flip rate, in nats above that of tossed coins."""
    scales, rates = _everywhere(margins)
    return float(surface(margins, link, scales, rates).max() + len(margins) * np.log(2))


def profiled(margins: np.ndarray, link: Link) -> Rate:
    """The flip rate of maximum likelihood, with its profile interval: all e with 2 (max log L - max_a log L(a, e))
    within the 90 % point of chi2 with one degree of freedom. At e = 0 such an interval covers more often than it says.
    """
    scales, rates = around(margins, link, count=81)
    heights = surface(margins, link, scales, rates)[0]
    rate, low, high = interval(rates, heights.max(0))
    nearest = int(np.abs(rates - rate).argmin())
    return Rate(rate, low, high, float(scales[heights[:, nearest].argmax()]))


def around(margins: np.ndarray, link: Link, *, count: int) -> tuple[np.ndarray, np.ndarray]:
    """41 scales and `count` flip rates, close together where the likelihood is near its maximum."""
    scales, rates = _everywhere(margins)
    for share, many in ((COARSE, 41), (0.0, count)):
        heights = surface(margins, link, scales, rates)[0]
        depth = DEPTH + share * (heights.max() + len(margins) * np.log(2))
        near = heights >= heights.max() - depth
        (first, last), (lowest, highest) = _ends(near.any(1)), _ends(near.any(0))
        scales, rates = np.geomspace(scales[first], scales[last], 41), np.linspace(rates[lowest], rates[highest], many)
    return scales, rates


def interval(rates: np.ndarray, profile: np.ndarray) -> tuple[float, float, float]:
    """Where a log-likelihood [E] over `rates` is largest, and the ends of where it is near enough to that."""
    fine = np.linspace(rates[0], rates[-1], 20 * len(rates))
    heights = PchipInterpolator(rates, profile)(fine)
    inside = fine[heights >= heights.max() - chi2.ppf(LEVEL, 1) / 2]
    return float(fine[heights.argmax()]), float(inside[0]), float(inside[-1])


def _everywhere(margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    typical = np.median(np.abs(margins)) or 1.0
    return np.geomspace(0.01, 100, 41) / typical, np.linspace(0, 0.5, 21)


def _ends(near: np.ndarray) -> tuple[int, int]:
    places = np.flatnonzero(near)
    return max(int(places[0]) - 1, 0), min(int(places[-1]) + 1, len(near) - 1)
