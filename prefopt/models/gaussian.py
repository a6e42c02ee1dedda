"""Rewards with an uncertainty of their own (the robust reward learning of Liu et al., 2024, arXiv 2306.03615)."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prefopt.batch import Groups
from prefopt.models.scorer import Scorer

LOG_VARIANCE = -6.0, 6.0
"""What log sigma^2 is clamped to."""


class Gaussian(nn.Module, Scorer):
    """R = sum_t r_t with r_t ~ N(mu_t, sigma_t^2): one reward model gives mu and another log sigma^2, step by step.

    Its folder opens as the reward model that its mean is; that of log sigma^2 is in log_variance/ beneath.
    """

    mean: Any
    log_variance: Any

    def __init__(self, mean: Any, log_variance: Any) -> None:
        super().__init__()
        self.mean, self.log_variance = mean, log_variance

    def law(self, groups: Groups) -> tuple[Tensor, Tensor]:
        """[B, n, T] mu and log sigma^2."""
        return self.mean.steps(groups), self.log_variance.steps(groups).clamp(*LOG_VARIANCE)

    def score(self, groups: Groups) -> Tensor:
        scores: Tensor = self.mean.score(groups)
        return scores

    def export(self, folder: Path) -> None:
        self.mean.export(folder)
        self.log_variance.export(folder / "log_variance")
