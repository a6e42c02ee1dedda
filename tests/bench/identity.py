"""Whether two arms compute the same thing; one that does not is void, however fast it is."""

from collections.abc import Sequence
from typing import Any

import numpy as np

TOLERANCE = {"32-true": 1e-3, "bf16-mixed": 2e-2}
"""Absolute and relative, of summed log-probs in nats; relative, in bfloat16. Also of losses, absolute."""


def logps(table: Any, theirs: np.ndarray, precision: str) -> dict[str, Any]:
    """Our cached log-probs of whole responses against their [N, 2]."""
    sums = np.add.reduceat(np.asarray(table.aligned["reference"], np.float64), table.response.offsets[:-1])
    gap, scale = np.abs(sums.reshape(theirs.shape) - theirs), np.abs(theirs)
    tolerance = TOLERANCE[precision]
    bound = tolerance * np.maximum(1, scale)
    return {"largest_relative": float((gap / scale).max()), "agrees": bool((gap <= bound).all())}


def losses(ours: Sequence[float], theirs: Sequence[float], precision: str) -> dict[str, Any]:
    """The first step's loss is log 2 for both, and the losses at all steps over the same batches are the same."""
    tolerance, gaps = TOLERANCE[precision], np.subtract(ours, theirs)
    first = max(abs(ours[0] - np.log(2)), abs(theirs[0] - np.log(2)))
    return {
        "steps": len(gaps),
        "first_from_log_2": float(first),
        "largest": float(np.abs(gaps).max()),
        "mean": float(gaps.mean()),
        "agrees": bool(first <= tolerance and (np.abs(gaps) <= tolerance).all()),
    }
