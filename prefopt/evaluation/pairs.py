"""Measures on held-out pairs, against their true labels, and on training pairs, against the noise."""

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from prefopt.batch import Groups
from prefopt.engine.loader import sequential
from prefopt.evaluation.subject import Subject
from prefopt.table import Table

Figures = dict[str, float]


@torch.no_grad()
def sides(
    subject: Subject, pairs: Table, label: np.ndarray, batch_size: int, rows: np.ndarray
) -> dict[str, np.ndarray]:
    """[N, 2] arrays over `rows` of a table: reward, S and length, and reference S where there is one, of the winner by
    these labels [table] and of its rival, which of several is that of the highest reward."""
    found: dict[str, list[np.ndarray]] = {}
    by_length = np.argsort(pairs.lengths[rows], kind="stable")
    for batch in sequential(pairs, batch_size, rows[by_length]):
        both = measured(subject, batch.to(subject.device)) | {"length": batch.length}
        values = {name: value.cpu().double() for name, value in both.items()}
        winner = torch.from_numpy(label[batch.index.numpy()])[:, None]
        rival = next(iter(values.values())).nan_to_num().scatter(1, winner, -torch.inf).argmax(1, keepdim=True)
        for name, value in values.items():
            found.setdefault(name, []).append(value.gather(1, torch.cat([winner, rival], 1)).numpy())
    back = np.argsort(by_length)
    return {name: np.concatenate(parts)[back] for name, parts in found.items()}


def measured(subject: Subject, batch: Groups) -> dict[str, Tensor]:
    """[B, 2] of each side: reward, S and reference S, as far as the subject has them, in one pass of each model."""
    values: dict[str, Tensor] = {}
    if subject.policy is None:
        return {} if subject.score is None else {"reward": subject.score(batch)}
    logps = subject.policy.logps(batch)
    reference = batch.reference
    if reference is None and subject.start is not None:
        reference = subject.start.logps(batch)
    values["S"] = logps.sum(-1)
    if reference is not None:
        values["reference"] = reference.sum(-1)
    if subject.implied is not None:
        values["reward"] = subject.implied(logps, reference, batch.length)
    elif subject.score is not None:
        values["reward"] = subject.score(batch)
    return values


def held_out(values: dict[str, np.ndarray], *, beta: float | None, rater_share: float) -> Figures:
    """Rewards, log-probs, lengths and ranking accuracy from `sides` of held-out pairs."""
    figures: Figures = {
        "length/chosen": values["length"][:, 0].mean(),
        "length/rejected": values["length"][:, 1].mean(),
    }
    if "reward" in values:
        chosen, rejected = values["reward"].T
        correct = (chosen > rejected).astype(float)
        figures |= {
            "eval/rewards/chosen": chosen.mean(),
            "eval/rewards/rejected": rejected.mean(),
            "eval/rewards/margins": (chosen - rejected).mean(),
            "eval/rewards/accuracies": correct.mean(),
            "eval/rewards/accuracies_se": standard_error(correct),
        }
    if "S" in values:
        figures |= {"eval/logps/chosen": values["S"][:, 0].mean(), "eval/logps/rejected": values["S"][:, 1].mean()}
        figures |= ranking(values, beta=beta, rater_share=rater_share)
    return {name: float(value) for name, value in figures.items()}


def ranking(values: dict[str, np.ndarray], *, beta: float | None, rater_share: float) -> Figures:
    """Ranking accuracy of the policy's likelihoods, raw and per token, and how far it is from what a perfectly fitted
    policy would reach (Chen et al., 2024, arXiv 2405.19534).

        R = 1[ S_w >= S_l ],   R* = 1[ ref_w - ref_l + log(alpha / (1 - alpha)) / beta > 0 ],   gap = R* - R

    alpha: the share of raters that agrees with the label; `rater_share` for all pairs. rank/flip_rate: the share of
    pairs that the reference ranks wrong and the policy right. rank/loss_needed: the median DPO loss at which a pair
    starts to be ranked right.
    """
    S, A = values["S"], values["S"] / values["length"]
    figures = {"rank/accuracy": (S[:, 0] >= S[:, 1]).mean(), "rank/accuracy_normalised": (A[:, 0] >= A[:, 1]).mean()}
    if "reference" in values and beta:
        right = idealised(values["reference"], alpha=rater_share, beta=beta)
        figures["rank/idealised"] = right.mean()
        figures["rank/alignment_gap"] = right.mean() - figures["rank/accuracy"]
        flipped = (values["reference"][:, 0] < values["reference"][:, 1]) & (S[:, 0] >= S[:, 1])
        wrong = (values["reference"][:, 0] < values["reference"][:, 1]).sum()
        figures["rank/flip_rate"] = flipped.sum() / max(wrong, 1)
        c = values["reference"][:, 1] - values["reference"][:, 0]
        figures["rank/loss_needed"] = float(np.median(loss_needed(c, beta)))
    return figures


def idealised(reference: np.ndarray, *, alpha: float, beta: float) -> np.ndarray:
    """[N] whether the perfectly fitted policy ranks a pair right, from the [N, 2] reference log-probs."""
    alpha = min(max(alpha, 1e-3), 1 - 1e-3)
    return reference[:, 0] - reference[:, 1] + np.log(alpha / (1 - alpha)) / beta > 0


def loss_needed(c: np.ndarray, beta: float) -> np.ndarray:
    """[N] the DPO loss below which a pair is ranked right, from c = ref_l - ref_w in nats."""
    return np.logaddexp(0.0, -beta * c)


def detection(margins: np.ndarray, flipped: np.ndarray) -> Figures:
    """How well the [N] margins of the recorded labels tell flipped pairs (low) from clean ones: AUROC by ranks."""
    found = auroc(-margins, flipped)
    return {} if np.isnan(found) else {"noise/detect_auroc": found}


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The share of (positive, other) couples of [N] `scores` in which the positive one is higher, ties counting half;
    nan where there are none."""
    few, many = positive.sum(), (~positive).sum()
    if not few or not many:
        return float("nan")
    return float((rankdata(scores)[positive].sum() - few * (few + 1) / 2) / (few * many))


def standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
