"""Advantages of a group's responses: pure functions of the rewards [B, G], detached from everything."""

import torch
from torch import Tensor

from prefopt.errors import PrefoptError


def standardised(reward: Tensor, eps: float = 1e-6) -> Tensor:
    """A = (r - mean) / (std + eps) in each group, with the sample standard deviation.

    A group whose rewards differ by rounding only (std < 1e-6) has advantage 0. Raises PrefoptError for groups of one.
    """
    if reward.shape[1] < 2:
        raise PrefoptError("a group of one response has no advantage", "set method.group_size to 2 or more")
    std = reward.std(1, keepdim=True)
    return torch.where(std < 1e-6, 0.0, centred(reward) / (std + eps))


def centred(reward: Tensor) -> Tensor:
    """A = r - mean in each group (Dr. GRPO)."""
    return reward - reward.mean(1, keepdim=True)
