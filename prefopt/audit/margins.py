"""Margins by models that have not seen the pair's label."""

import numpy as np
import scipy.sparse as sp

from prefopt.audit.likelihood import logistic, maximum
from prefopt.progress import track

FOLDS = 5
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse ridge penalties that are tried."""


def out_of_fold(differences: sp.csr_matrix, label: np.ndarray, *, seed: int) -> np.ndarray:
    """[N] margins <theta_-k, phi(winner) - phi(loser)> of the recorded labels, in arbitrary units.

    theta_-k is a Bradley-Terry model with a ridge penalty, fitted to the folds other than the pair's own: a flipped
    label cannot be learned by heart. Under symmetric flips such a model keeps its direction (exactly so for elliptical
    features) and loses length, which is estimated together with the flip rate. Of the penalties the one with the
    largest likelihood of noisy Bradley-Terry out of fold is kept. Every second pair, by `seed`, is mirrored, so that
    positions do not matter.

    differences: [N, d] first response less second. label: [N] 0 where the first is recorded as preferred, else 1.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold, cross_val_predict

    mirrored = np.random.default_rng(seed).permutation(len(label)) % 2 * 2.0 - 1
    winner = np.where(label == 0, mirrored, -mirrored)
    seen, folds = sp.diags_array(mirrored) @ differences, KFold(FOLDS, shuffle=True, random_state=seed)
    tried = []
    for strength in track(STRENGTHS, "fit preferences", len(STRENGTHS)):
        model = LogisticRegression(C=strength, fit_intercept=False, max_iter=1000)
        tried.append(winner * cross_val_predict(model, seen, winner, cv=folds, method="decision_function"))
    return max(tried, key=lambda margins: maximum(margins, logistic))
