"""A judge: labels pairs by Bradley-Terry on a scorer's reward, and errs as the noise says, if there is any."""

from typing import Any

import numpy as np
import torch

from prefopt.engine.loader import sequential
from prefopt.models.scorer import Scorer
from prefopt.noise.base import Noise, Recorded, uniform
from prefopt.table import Table


class Judge:
    """P(y > y' | x) = sigmoid( (r(y) - r(y')) / temperature ), drawn once for an example id; `calls` counts pairs."""

    def __init__(
        self, scorer: Scorer, *, temperature: float, noise: Noise | None, seed: int, device: Any = "cpu"
    ) -> None:
        self.scorer, self.temperature, self.noise, self.seed, self.device = scorer, temperature, noise, seed, device
        self.calls = 0

    @torch.no_grad()
    def __call__(self, pairs: Table) -> np.ndarray:
        """[N] labels of an unlabelled table."""
        scores = [self.scorer.score(batch.to(self.device)).double().cpu() for batch in sequential(pairs, 256)]
        gold = torch.cat(scores).numpy()
        second_wins = 1 / (1 + np.exp((gold[:, 0] - gold[:, 1]) / self.temperature))
        label = (uniform(pairs.ids, self.seed, "judge") < second_wins).astype(np.int64)
        self.calls += len(label)
        if self.noise is None:
            return label
        return self.noise.labels(Recorded.from_table(pairs, label, gold), self.seed)
