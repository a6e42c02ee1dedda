"""What an evaluation sees of a run: what it would answer, what it thinks of answers, and where it started."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prefopt.batch import Groups

Act = Callable[[Groups, int, torch.Generator | None], Groups]
Score = Callable[[Groups], Tensor]


@dataclass(frozen=True)
class Subject:
    """One run under evaluation.

    act: its answers, None for what answers nothing (a reward model).
    score: its reward [B, n], None where it implies none.
    implied: the same reward from log-probs [B, n, T], reference log-probs and lengths [B, n] that are there already.
    policy: the law that `act` follows, None where it follows none that can be written down.
    start: the frozen policy that it started from.
    kl_bound: nats that its answers are at most away from `start`, where theory says so.
    beta: reward a nat, where the method has one.
    recorded: whether it learned from the recorded labels of the training pairs.
    theta: [d] parameters of a log-linear model, whose implied reward is `theta_scale` <theta, phi>.
    device: where batches go.
    """

    act: Act | None
    score: Score | None
    policy: Any | None
    start: Any | None
    implied: Callable[[Tensor, Tensor | None, Tensor], Tensor] | None = None
    kl_bound: float | None = None
    beta: float | None = None
    recorded: bool = False
    theta: Tensor | None = None
    theta_scale: float = 1.0
    device: Any = "cpu"
