"""Measures group by group: whom a reward, or a policy, serves badly."""

from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from prefopt.evaluation.exact import beaten
from prefopt.evaluation.gold import Answers
from prefopt.evaluation.pairs import Figures
from prefopt.members import SHOWN, metric_names, names
from prefopt.models.scorer import centred
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


@torch.no_grad()
def enumerated_groups(world: Any, policy: Tensor) -> Figures:
    """How well a policy, as [contexts, responses] log-probs in nats, serves each group of a world that has such:
    group/win_rate/<u> over the reference (ties count half), group/utility/<u>, E[r_u] in standard deviations of r_u
    under the reference over its mean there, and of either worst, mean and gap, the best less the worst."""
    p, ref = policy.cpu().exp(), world.reference.exp()
    win = torch.stack([(p * beaten(r, ref)).sum(-1).mean() for r in world.group_rewards])
    utility = (p * centred(world.group_rewards, world.reference)).sum(-1).mean(-1)
    return _served("win_rate", win) | _served("utility", utility)


@torch.no_grad()
def answered_groups(world: Any, policy: Answers, start: Answers) -> Figures:
    """The win rates of `enumerated_groups`, from the policy's answers against the start's."""
    ours, theirs = (
        torch.cat([world.group_reward(batch)[..., 0].cpu() for batch in answers.batches], 1)
        for answers in (policy, start)
    )
    return _served("win_rate", ((ours > theirs).double() + 0.5 * (ours == theirs)).mean(1))


def _served(what: str, each: Tensor) -> Figures:
    """Of one number a group [U]."""
    figures = {f"group/{what}/{u}": value for u, value in enumerate(each[:SHOWN])}
    ends = {"worst": each.min(), "mean": each.mean()}
    figures |= {f"group/{end}_{what}": value for end, value in ends.items()} | {
        f"group/{what}_gap": each.max() - each.min()
    }
    return {name: float(value) for name, value in figures.items()}


def clustered(pairs: Table, clusters: np.ndarray) -> Figures:
    """group/cluster_accuracy: the share of annotators whose cluster is their group's, when clusters are named after
    groups as well as can be; nothing where a pair has no group. clusters: [annotators] by code."""
    if "group" not in pairs.known:
        return {}
    annotator, rows = np.unique(pairs.known["annotator"], return_index=True)
    group = np.asarray(pairs.known["group"])[rows]
    if (group < 0).any():
        return {}
    together = np.zeros((clusters.max() + 1, group.max() + 1))
    np.add.at(together, (clusters[annotator], group), 1)
    return {"group/cluster_accuracy": float(together[linear_sum_assignment(-together)].sum() / len(annotator))}
