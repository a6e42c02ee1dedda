"""What a loss reports."""

from torch import Tensor

Metrics = dict[str, Tensor]
"""Detached, [B] or scalar, by name."""
