"""What an evaluation sees of a run: what it would answer, what it thinks of answers, and where it started."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from prefopt.batch import Groups
from prefopt.models.model import Gold
from prefopt.table import Table

Act = Callable[[Groups, int, torch.Generator | None], Groups]
Score = Callable[[Groups], Tensor]


class Lesson(Protocol):
    """How a method that learns from given pairs sees pairs; a method is one."""

    training: bool
    """Whether what it sees is remembered."""

    def train(self, mode: bool = True) -> Any: ...

    def collect(self, data: Table, round: int) -> Table | None:
        """Its table of a table of pairs."""
        ...

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """[B] losses, and metrics by name."""
        ...

    def weigh(self, batch: Any) -> Tensor | None:
        """How much it relies on each label, [B] the probability that it is right, or on each token [B, n, T]."""
        ...


@dataclass(frozen=True)
class Subject:
    """One run under evaluation.

    act: its answers, None for what answers nothing (a reward model).
    score: its reward [B, n], None where it implies none.
    implied: the same reward from log-probs [B, n, T], reference log-probs and lengths [B, n] that are there already.
    policy: the law that `act` follows, None where it follows none that can be written down.
    average: the mean of the policies of its rounds, where it has one.
    start: the frozen policy that it started from.
    reward: what it optimises and does not learn, None where there is no such thing. proxy: the same where it is not
    the world's own.
    samples: N, where it answers with the reward's favourite of N answers of `start`.
    beta: reward a nat, where the method has one.
    lesson: how it sees pairs, where it learned from the recorded labels of the training pairs.
    clusters: the cluster that it takes each annotator of the training pairs to be of, [annotators] by code.
    theta: [d] parameters of a log-linear model, whose implied reward is `theta_scale` <theta, phi>.
    elect: the rule, size and least share by which it chooses subsets, where it does.
    device: where batches go.
    """

    act: Act | None
    score: Score | None
    policy: Any | None
    start: Any | None
    implied: Callable[[Tensor, Tensor | None, Tensor], Tensor] | None = None
    average: Callable[[], Tensor] | None = None
    reward: Any | None = None
    samples: int | None = None
    beta: float | None = None
    lesson: Lesson | None = None
    clusters: Callable[[], Tensor] | None = None
    theta: Tensor | None = None
    theta_scale: float = 1.0
    elect: Mapping[str, Any] | None = None
    device: Any = "cpu"

    @property
    def proxy(self) -> Any | None:
        return None if isinstance(self.reward, Gold) else self.reward

    @property
    def by(self) -> str:
        """The name of the reward that best-of-n chooses by."""
        return "gold" if self.proxy is None else "proxy"
