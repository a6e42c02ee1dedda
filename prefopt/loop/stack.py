"""Runs that take their steps together, each with its own data, labels, seed, events and end."""

from collections.abc import Callable, Sequence

import numpy as np

from prefopt import stop
from prefopt.engine.loader import Loader
from prefopt.errors import Interrupted
from prefopt.loop.fit import Training, device_of
from prefopt.loop.record import evaluations
from prefopt.progress import bar

Plans = Sequence[Sequence[np.ndarray]]
"""By run and step of a round, rows of its data."""


class Stack:
    """K runs that are alike. step: how many of their steps are done. ends: what ended a run, None where nothing did.

    again: what a run does that was stopped.
    """

    again = "begins anew"

    def __init__(self, trainings: Sequence[Training]) -> None:
        self.trainings = trainings
        self.device = device_of(trainings[0].trainer["accelerator"])
        self.ends: list[Exception | None] = [None] * len(trainings)
        self.step = 0

    def fit(self) -> list[Exception | None]:
        """Take all steps that are left; what each run would have raised alone."""
        first = self.trainings[0]
        measured, every = evaluations(first.steps, first.times), first.trainer["log_every"]
        a_round = first.steps // first.rounds
        self._for_each(lambda k: self.trainings[k].events.rewind(self.step))
        with stop.heeded(), bar(f"{len(self.trainings)} runs as one", first.steps, self.step) as update:
            for round in range(self.step // a_round, first.rounds):
                plans = self._plans(round)
                self._begin(plans)
                for at in range(self.step % a_round, a_round):
                    self._take([plan[at] for plan in plans], at)
                    self.step += 1
                    if self.step % every == 0 or at + 1 == a_round:
                        self._record([plan[: at + 1] for plan in plans])
                    if self.step in measured:
                        self._for_each(self._measure)
                    self._save([plan[: at + 1] for plan in plans])
                    if stop.asked():
                        self._interrupt()
                    if all(self.ends):
                        return self.ends
                    update()
        self._for_each(self._settle)
        return self.ends

    def _plans(self, round: int) -> Plans:
        """Each run's plan of a round."""
        return [
            Loader(
                training.data,
                batch_size=training.batch_size,
                seed=training.seed,
                round=round,
                passes=training.method.passes,
                mixed=training.method.coupled,
            ).plan
            for training in self.trainings
        ]

    def _begin(self, plans: Plans) -> None:
        """Before a round: make ready what all its steps share."""

    def _take(self, batches: Sequence[np.ndarray], at: int) -> None:
        """One step of all runs, on these rows of their data, which are the round's at this place."""
        raise NotImplementedError

    def _record(self, given: Plans) -> None:
        """Write every run's means since the last time, or end it where one is not finite; given: this round's rows."""
        raise NotImplementedError

    def _measure(self, k: int) -> None:
        self._settle(k)
        self.trainings[k].events.write(self.step, self.trainings[k].measure())

    def _settle(self, k: int) -> None:
        """Give run k's method its weights and memories."""

    def _save(self, given: Plans) -> None:
        """After a step: keep what the runs need to go on from it, where that is due."""

    def _interrupt(self) -> None:
        error = Interrupted(f"stopped by {stop.asked()} at step {self.step}", f"the same command {self.again}")
        self.ends = [end or error for end in self.ends]

    def _for_each(self, do: Callable[[int], None]) -> None:
        """Do this for every run that has not ended; what it raises is the run's end."""
        for k, end in enumerate(self.ends):
            if end is None:
                try:
                    do(k)
                except Exception as error:
                    self.ends[k] = error
