"""Losses that stop to reward a step once it has gone far enough: pure functions of token columns [B, n, T]."""

import torch
from torch import Tensor


def clip_surrogate(logps: Tensor, old: Tensor, advantage: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The clipped loss of every token and where the clip holds, both [B, n, T]; advantage: [B, n, 1] or [B, n, T]."""
    rho = (logps - old).exp()
    free, bound = rho * advantage, rho.clamp(1 - low, 1 + high) * advantage
    return -torch.minimum(free, bound), (bound < free).float()


def clip_value(value: Tensor, old: Tensor, returns: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Half the squared error of every token's value, or that of the value clipped to `reach` around the old one where
    it is larger, and where that holds, both [B, n, T]."""
    free = (value - returns) ** 2
    bound = (old + (value - old).clamp(-reach, reach) - returns) ** 2
    return 0.5 * torch.maximum(free, bound), (bound > free).float()
