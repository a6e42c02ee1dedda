"""The exponential, for log-ratios of any size."""

import math

from torch import Tensor

LARGE = 40.0
"""In nats. The square of e^40 is still a float32, and so is a gradient's norm."""


def expm1(x: Tensor) -> Tensor:
    """e^x - 1, and beyond x = 40 its tangent: finite, with a gradient that does not vanish."""
    return x.clamp(max=LARGE).expm1() + math.exp(LARGE) * (x - LARGE).clamp(min=0)
