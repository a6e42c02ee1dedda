"""The measurements of a run: some during training, all after it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefopt.batch import Pairs
from prefopt.datasets.data import Data, Split
from prefopt.errors import PrefoptError
from prefopt.evaluation.calibration import calibration
from prefopt.evaluation.elections import elected
from prefopt.evaluation.exact import best_law, enumerated, expected_error, parameter_error, ranked
from prefopt.evaluation.game import played
from prefopt.evaluation.gold import Answers, answered, compared, distinct_prompts, samples
from prefopt.evaluation.groups import answered_groups, by_group, clustered, enumerated_groups
from prefopt.evaluation.own import View
from prefopt.evaluation.pairs import Figures, detection, held_out, sides
from prefopt.evaluation.proxy import (
    Rewards,
    enumerated_curve,
    enumerated_standardised,
    sampled_curve,
    sampled_standardised,
    standardised,
)
from prefopt.evaluation.subject import Act, Subject
from prefopt.models.exact import everything

NOISE_ROWS = 2000
"""Training pairs at most on which flipped and clean margins are told apart."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """conf/evaluation.

    times: evaluations of a run, the last one after it. prompts: answered afresh at each.
    pairs: held-out pairs that are measured during training; all of them are after it. batch_size: pairs a pass.
    seed: of the answers. figures: draw them, for people.
    rater_share: the assumed share of raters behind a label, for the alignment gap.
    """

    times: int = 4
    prompts: int = 200
    pairs: int = 200
    batch_size: int = 64
    seed: int = 0
    figures: bool = True
    rater_share: float = 0.75

    def __post_init__(self) -> None:
        for key in ("times", "prompts", "pairs", "batch_size"):
            if getattr(self, key) < 1:
                raise PrefoptError(f"evaluation.{key}={getattr(self, key)} measures nothing", "give at least 1")

    def examine(self, subject: Subject, data: Data, *, rate: float | None) -> "Examination":
        """One run's examination; `rate` is the flip rate that was done to its labels, None where flips are not
        all alike."""
        return Examination(self, subject, data, rate)


@dataclass
class Examination:
    """The measurements of one subject on one dataset, the newest kept.

    margins, flipped: [N] of training pairs, by their recorded labels. held_out: [N] margins of held-out pairs, by their
    true labels. answers: to held-out prompts.
    """

    suite: Suite
    subject: Subject
    data: Data
    rate: float | None
    margins: np.ndarray | None = None
    flipped: np.ndarray | None = None
    held_out: np.ndarray | None = None
    answers: Answers | None = None

    @cached_property
    def rows(self) -> np.ndarray:
        return distinct_prompts(self.data, self.suite.prompts)

    @cached_property
    def expected(self) -> float:
        """theta/expected, where flips are all alike."""
        assert self.rate is not None
        return expected_error(self.data.world, rate=self.rate, pairs=len(self.data.train.pairs))

    @cached_property
    def start_answers(self) -> Answers:
        start: Any = self.subject.start
        return self._answered(start.sample)

    @cached_property
    def candidates(self) -> Answers:
        """The start's answers that best-of-n chooses from."""
        subject: Any = self.subject
        return self._answered(subject.start.sample, subject.samples)

    @cached_property
    @torch.no_grad()
    def listed_rewards(self) -> Rewards:
        """[C, R] of every response of an exact world."""
        world: Any = self.data.world
        gold, proxy, device = world.rewards, self.subject.proxy, self.subject.device
        if proxy is None:
            return {"gold": gold}
        return {"gold": gold, "proxy": proxy.score(everything(*gold.shape).to(device)).to(gold)}

    def during(self) -> Figures:
        """What a learning curve shows: some held-out pairs, and fresh answers or exact figures."""
        return self._pairs(self.data.test, np.arange(min(self.suite.pairs, len(self.data.test.pairs)))) | self._world()

    def after(self) -> Figures:
        """Everything: all held-out pairs, the noise among training pairs, and fresh answers or exact figures."""
        everything = np.arange(len(self.data.test.pairs))
        measured = self._own() | self._pairs(self.data.test, everything) | self._noise() | self._world()
        if self.subject.clusters is not None:
            measured |= clustered(self.data.train.pairs, self.subject.clusters().cpu().numpy())
        return measured

    def _pairs(self, split: Split, rows: np.ndarray) -> Figures:
        if self.subject.score is None and self.subject.policy is None:
            return {}
        values = sides(self.subject, split.pairs, split.truth.label, self.suite.batch_size, rows)
        figures = held_out(values, beta=self.subject.beta, rater_share=self.suite.rater_share)
        if "reward" in values and issubclass(split.pairs.kind, Pairs):
            self.held_out = values["reward"][:, 0] - values["reward"][:, 1]
            figures |= calibration(self.held_out) | by_group(split.pairs, rows, self.held_out > 0)
        return figures

    def _world(self) -> Figures:
        subject, data = self.subject, self.data
        figures: Figures = dict(getattr(data.world, "facts", {}))
        ranks = hasattr(data.world, "rewards") and not hasattr(data.world, "preferences")
        if subject.act is None and subject.score is not None and ranks:
            figures |= ranked(data.world, subject.score, subject.device)
        if subject.elect is not None and hasattr(data.world, "rankings"):
            figures |= elected(data.world, **subject.elect)
        if subject.theta is not None and hasattr(data.world, "theta"):
            figures["theta/error"] = parameter_error(data.world, subject.theta_scale * subject.theta.detach())
            if self.rate is not None and self.rate < 0.5:
                figures["theta/expected"] = self.expected
        game, exact = hasattr(data.world, "preferences"), hasattr(subject.start, "table")
        if game and subject.policy is not None:
            average = None if subject.average is None else subject.average()
            figures |= played(data.world, subject.policy.table(), beta=subject.beta, average=average)
        elif exact and not game and (subject.policy is not None or self._listed):
            figures |= self._enumerated()
        elif subject.act is not None and subject.start is not None:
            figures |= self._sampled(subject.act)
        return figures

    @property
    def _listed(self) -> bool:
        """Whether best-of-n's law can be written down: its reward of a response does not depend on the others."""
        return self.subject.samples is not None and getattr(self.subject.reward, "alone", True)

    @property
    def _grouped(self) -> bool:
        """Whether it is known what groups want."""
        return hasattr(self.data.world, "group_rewards")

    def _enumerated(self) -> Figures:
        """On an exact world, of every response."""
        subject: Any = self.subject
        start, N, rewards = subject.start.table().detach().cpu(), subject.samples, self.listed_rewards
        by = rewards[subject.by]
        policy = subject.policy.table().detach().cpu() if N is None else best_law(start, by, N)
        figures = enumerated(self.data.world, policy, beta=subject.beta)
        figures |= enumerated_groups(self.data.world, policy) if self._grouped else {}
        if subject.reward is not None:
            scaled = standardised(rewards, rewards, start.exp())
            figures |= enumerated_standardised(policy, scaled)
            figures |= {} if N is None else enumerated_curve(start, by, scaled, N)
        return figures

    def _sampled(self, act: Act) -> Figures:
        """Of fresh answers."""
        subject = self.subject
        if subject.samples is None:
            start, self.answers = self.start_answers, self._answered(act)
        else:
            start, self.answers = self.candidates, self.candidates.best(subject.by)
        figures = compared(subject, self.answers, self.start_answers)
        figures |= answered_groups(self.data.world, self.answers, self.start_answers) if self._grouped else {}
        if subject.reward is not None:
            figures |= sampled_standardised(standardised(self.answers.rewards, start.rewards))
        if subject.samples is not None:
            figures |= sampled_curve(start.rewards[subject.by], standardised(start.rewards, start.rewards))
        return figures

    def samples(self, decode: Callable[[Tensor], str]) -> list[dict[str, Any]]:
        """The table of the answers that were last measured; empty where none were given."""
        if self.answers is None:
            return []
        return samples(decode, self.answers, self.start_answers)

    def _answered(self, act: Act, n: int = 1) -> Answers:
        suite, subject = self.suite, self.subject
        return answered(
            act,
            self.data,
            self.rows,
            n=n,
            proxy=subject.proxy,
            batch_size=suite.batch_size,
            seed=suite.seed,
            device=subject.device,
        )

    def _own(self) -> Figures:
        lesson, data = self.subject.lesson, self.data
        if lesson is None:
            return {}
        view = View(lesson, self.suite.batch_size, self.subject.device)
        return view.reported(data.test.pairs) | view.bearing(data.test.pairs, data.world)

    def _noise(self) -> Figures:
        if self.subject.score is None or self.subject.lesson is None:
            return {}
        pairs, truth = self.data.train.pairs, self.data.train.truth
        rows = np.arange(min(len(pairs), NOISE_ROWS))
        reward = sides(self.subject, pairs, np.asarray(pairs.columns["label"]), self.suite.batch_size, rows)["reward"]
        self.flipped, self.margins = truth.flipped[rows], reward[:, 0] - reward[:, 1]
        view = View(self.subject.lesson, self.suite.batch_size, self.subject.device)
        return detection(self.margins, self.flipped) | view.trust(pairs, self.flipped)
