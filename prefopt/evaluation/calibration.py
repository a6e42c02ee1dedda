"""Whether a reward is right as often as it says: P(y_w > y_l) = sigmoid( r(y_w) - r(y_l) ) against the true label.

A pair is confident by max(P, 1 - P), in [0.5, 1], and right where the true winner has the higher reward; a tie is half
right, so that a reward which knows nothing and says so is calibrated.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import expit, log_expit

from prefopt.evaluation.pairs import Figures

EDGES = np.linspace(0.5, 1, 11)


class Bins(NamedTuple):
    """Of the bins of confidence that hold pairs: how many, their mean confidence, and the share that is right."""

    pairs: np.ndarray
    confidence: np.ndarray
    right: np.ndarray


def calibration(margins: np.ndarray) -> Figures:
    """calibration/ece, the expected calibration error over ten bins of confidence (Guo et al., 2017, arXiv 1706.04599),
    calibration/brier, the mean of (1 - P)^2, and calibration/nll, that of -log P in nats.

    margins: [N] reward of the true winner less that of the loser; where one is not a number, neither are the figures.
    """
    bins = binned(margins)
    figures = {
        "ece": (bins.pairs * np.abs(bins.right - bins.confidence)).sum() / len(margins),
        "brier": (expit(-margins) ** 2).mean(),
        "nll": -log_expit(margins).mean(),
    }
    return {f"calibration/{name}": float(value) for name, value in figures.items()}


def binned(margins: np.ndarray) -> Bins:
    confidence, right = expit(np.abs(margins)), np.where(margins == 0, 0.5, margins > 0)
    place = np.searchsorted(EDGES[1:-1], confidence, side="right")
    pairs, *sums = (np.bincount(place, weights, minlength=10) for weights in (None, confidence, right))
    held = pairs > 0
    return Bins(pairs[held], *(total[held] / pairs[held] for total in sums))
