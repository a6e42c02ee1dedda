"""Measures on held-out pairs, group by group: whom a reward serves badly."""

import numpy as np

from prefopt.evaluation.pairs import Figures
from prefopt.members import metric_names, names
from prefopt.table import Table


def by_group(pairs: Table, rows: np.ndarray, right: np.ndarray) -> Figures:
    """group/accuracy/<group> of the first groups, and over all that have pairs group/worst_accuracy and
    group/disagreement, the best less the worst; nothing where no pair has a group.

    rows: [N] of the table. right: [N] whether the true winner has the higher reward.
    """
    groups = names(pairs, "group")
    if not groups:
        return {}
    codes = np.asarray(pairs.known["group"])[rows]
    known, right = codes >= 0, right.astype(float)
    size, total = (np.bincount(codes[known], x, minlength=len(groups)) for x in (None, right[known]))
    present = np.flatnonzero(size)
    if not len(present):
        return {}
    accuracy = total[present] / size[present]
    shown = dict(enumerate(metric_names(groups)))
    found = zip(present.tolist(), accuracy.tolist(), strict=True)
    each = {f"group/accuracy/{shown[k]}": share for k, share in found if k in shown}
    worst, best = float(accuracy.min()), float(accuracy.max())
    return {**each, "group/worst_accuracy": worst, "group/disagreement": best - worst}
