"""Confident learning for pairs, extrapolated."""

import numpy as np
from scipy.special import expit

from prefopt.audit.likelihood import LEVEL, Rate

BINS, RESAMPLES = 60, 400
FALLS = np.geomspace(0.3, 12, 30)
"""Rates b at which disagreement may fall, in units of one over the median confidence."""


def extrapolated(margins: np.ndarray, *, seed: int) -> Rate:
    """The share of recorded labels that contradict confident predictions, where confidence has no end.

    Northcutt, Jiang and Chuang 2021 (arXiv 1911.00068) count a label as wrong where the predicted probability of
    another one is at least the mean probability t of the labels that were given. For a pair, both responses alike,
    that is the share D of m < 0 among sigmoid(|m|) >= t. D also holds careful people's close calls, so it is too high.
    Above t it is fitted, by weighted least squares over bins of |m|, to

        D(|m|) = e + A exp(-b |m|),    0 <= e <= 1/2,  A >= 0

    Assumes that above t close calls die out exponentially in the confidence; nothing of the pairs below it. Where the
    margins are too small for that to be seen, e is D itself, an upper bound. Interval: of e over bins drawn again; its
    upper end is at least the rate at which not one of the pairs above t would be wrong once in twenty.

    margins: [N] out of fold, of the recorded labels, in nats.
    """
    if not margins.any():
        return Rate(0.0, 0.0, 0.5, 1.0)
    confident = expit(np.abs(margins))
    sure = margins[confident >= min(expit(margins).mean(), confident.max())]
    confidence = np.abs(sure) / np.median(np.abs(sure))
    order = np.argsort(confidence, kind="stable")
    bins = np.empty(len(sure), np.int64)
    bins[order] = np.arange(len(sure)) * BINS // len(sure)
    pairs = np.bincount(bins, minlength=BINS).astype(float)
    wrong = np.bincount(bins, sure < 0, minlength=BINS)
    mean = np.bincount(bins, confidence, minlength=BINS) / np.maximum(pairs, 1)
    decays = np.exp(-FALLS[:, None] * (mean - mean[pairs > 0].min()))
    draws = np.random.default_rng(seed)
    again = draws.binomial(pairs.astype(int), wrong / np.maximum(pairs, 1), size=(RESAMPLES, BINS))
    low, high = np.quantile([_level(row, pairs, decays) for row in again], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    unseen = 1 - ((1 - LEVEL) / 2) ** (1 / len(sure))
    return Rate(_level(wrong, pairs, decays), float(low), min(max(float(high), unseen), 0.5), 1.0)


def _level(wrong: np.ndarray, pairs: np.ndarray, decays: np.ndarray) -> float:
    """The e of least squares, binomially weighted, over the decays [B, BINS]."""
    share = wrong / np.maximum(pairs, 1)
    fitted = np.full(len(pairs), np.clip(wrong.sum() / pairs.sum(), 0.01, 0.5))
    for _ in range(3):
        weight = pairs / (fitted * (1 - fitted))
        w, wy = weight.sum(), weight @ share
        wx, wxx, wxy = decays @ weight, decays**2 @ weight, decays @ (weight * share)
        e = (wxx * wy - wx * wxy) / np.maximum(w * wxx - wx**2, 1e-9)
        e = np.clip(np.where(wxy - e * wx < 0, wy / w, e), 0, 0.5)
        a = np.maximum((wxy - e * wx) / wxx, 0)
        errors = ((share - e[:, None] - a[:, None] * decays) ** 2) @ weight
        best = int(errors.argmin())
        fitted = np.clip(e[best] + a[best] * decays[best], 0.005, 0.995)
    return float(e[best])
