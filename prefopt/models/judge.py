"""A judge: labels pairs by a scorer's log-odds, and errs as the noise says, if there is any."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefopt.batch import Groups
from prefopt.engine.loader import sequential
from prefopt.models.scorer import Scorer, finite
from prefopt.noise.base import Noise, Recorded, uniform
from prefopt.table import Table


class Judge:
    """P(y > y' | x) = sigmoid( margin / temperature ), drawn once for an example id; `calls` counts pairs."""

    def __init__(
        self, scorer: Scorer, *, temperature: float, noise: Noise | None, seed: int, device: Any = "cpu"
    ) -> None:
        self.scorer, self.temperature, self.noise, self.seed, self.device = scorer, temperature, noise, seed, device
        self.calls = 0

    @torch.no_grad()
    def __call__(self, pairs: Table) -> np.ndarray:
        """[N] labels of an unlabelled table."""
        margin = self._asked(self.scorer.margin, pairs)
        second_wins = 1 / (1 + np.exp(margin / self.temperature))
        label = (uniform(pairs.ids, self.seed, "judge") < second_wins).astype(np.int64)
        self.calls += len(label)
        if self.noise is None:
            return label
        recorded = Recorded.from_table(pairs, label, self._asked(self.scorer.score, pairs))
        return self.noise.labels(recorded, self.seed)

    def _asked(self, question: Callable[[Groups], Tensor], pairs: Table) -> np.ndarray:
        answers = [question(batch.to(self.device)).double().cpu() for batch in sequential(pairs, 256)]
        return finite(torch.cat(answers)).numpy()
