"""What the figures of a comparison mean: which way is better, in which unit, and against which level."""

import re
from typing import NamedTuple

from prefopt.summary import SHOWN


class Measure(NamedTuple):
    """One figure of a run.

    better: 1 where higher is better, -1 where lower is, 0 where neither is meant.
    level: what it is compared with to say that training helped: a number, or another figure of the same run.
    """

    key: str
    name: str
    better: int
    unit: str
    meaning: str
    level: float | str | None = None

    @property
    def direction(self) -> str:
        return {1: "higher is better", -1: "lower is better", 0: "no better or worse"}[self.better]


NAMES = dict(SHOWN)
KNOWN: dict[str, tuple[int, str, str, float | str | None]] = {
    "gold/win_rate": (
        1,
        "share of prompts",
        "How often an answer beats one of the start by the gold reward, a tie counting half.",
        0.5,
    ),
    "gold/reward": (
        1,
        "gold reward",
        "Mean true reward of fresh answers; the level is that of the start.",
        "gold/reward_start",
    ),
    "proxy/standardised": (
        0,
        "standard deviations",
        "What the reward that was optimised says of fresh answers, in standard deviations of the start's answers from "
        "their mean.",
        None,
    ),
    "regret": (
        -1,
        "expected reward",
        "How far the policy's reward, less its price in KL, stays below the best possible one.",
        None,
    ),
    "eval/rewards/accuracies": (
        1,
        "share of pairs",
        "Held-out pairs that the implied reward ranks right, by their true labels.",
        0.5,
    ),
    "group/worst_accuracy": (1, "share of pairs", "The same of the group that it serves worst.", 0.5),
    "group/worst_win_rate": (
        1,
        "share of prompts",
        "How often an answer beats one of the start by the reward of the group that it serves worst.",
        0.5,
    ),
    "group/cluster_accuracy": (1, "share of annotators", "Annotators who were put together with their group.", None),
    "calibration/ece": (
        -1,
        "share of pairs",
        "How far the reward's confidence on held-out pairs is from how often it is right.",
        None,
    ),
    "rank/accuracy": (1, "share of pairs", "Held-out pairs whose better side is the likelier one.", 0.5),
    "rank/alignment_gap": (
        -1,
        "share of pairs",
        "How far ranking by likelihood is from what a perfect fit reaches.",
        None,
    ),
    "noise/detect_auroc": (
        1,
        "AUROC",
        "How well the margins tell flipped training pairs from clean ones.",
        0.5,
    ),
    "theta/error": (-1, "log-odds", "Distance of the reward's parameter from the true one.", None),
    "gold/kl": (-1, "nats", "Distance of the policy from its start: the price of every reward above.", None),
    "gold/kl_bound": (-1, "nats", "The most that the policy can be from its start.", None),
    "length/policy": (0, "tokens", "Mean length of an answer.", None),
}
LOWER = re.compile(r"(loss|error|kl|kl_bound|regret|gap|brier|nll|disagreement)$")
PREFERRED = ("gold/win_rate", "gold/reward", "regret", "eval/rewards/accuracies")
KL = ("gold/kl", "gold/kl_bound")


def measure(key: str) -> Measure:
    """What is known of a figure; of one that nobody described, whether lower is better is told by its name."""
    if key in KNOWN:
        better, unit, meaning, level = KNOWN[key]
        return Measure(key, NAMES[key], better, unit, meaning, level)
    return Measure(key, key, -1 if LOWER.search(key) else 0, "", "")
