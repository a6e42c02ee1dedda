"""Whether prefopt and TRL compute the same thing: where they do not, no time of either counts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ours
import pairs
import sizes
import theirs
from turns import taken

from prefopt.engine.loader import Loader

SHORT, BATCH, STEPS = pairs.Profile(24, 12, 512), 2, 20
TOLERANCE = {"32-true": 1e-3, "bf16-mixed": 2e-2}
"""Of summed log-probs in nats, absolute and relative."""
LOSSES = {"32-true": 1e-3, "bf16-mixed": 5e-3}
"""Absolute."""


def gate(size: str, folder: Path, device: str = "cpu") -> dict[str, Any]:
    """Log-probs, and losses of STEPS steps over the same batches, in each precision on both sides.

    `agrees` says of each whether it does.
    """
    shape = sizes.SIZES[size]
    drawn = pairs.drawn(SHORT, STEPS * BATCH, shape.vocabulary, seed=1)
    table, model = pairs.table(drawn), sizes.made(shape, SHORT.longest).to(device)
    plan = Loader(table, batch_size=BATCH, seed=0, round=0).plan
    checks = {}
    for precision in ours.PRECISIONS:
        own = folder / precision
        trainer = theirs.Start(model, drawn, shape.vocabulary, own, batch=BATCH, device=device).trainer(
            {**theirs.BEST, "bf16": precision == "bf16-mixed"}
        )
        cached = ours.referenced(model, table, precision=precision, batch_size=BATCH, device=device)
        checks[f"log-probs, {precision}"] = logps(cached, theirs.reference(trainer), TOLERANCE[precision])
        arm = ours.steps(model, cached, own, precision=precision, batch_size=BATCH, device=device)
        found = taken({"ours": arm, "theirs": theirs.steps(trainer, plan)}, STEPS)
        checks[f"losses, {precision}"] = losses(*found.losses.values(), LOSSES[precision])
    return checks


def logps(table: Any, theirs: np.ndarray, tolerance: float) -> dict[str, Any]:
    """Our cached log-probs of whole responses against their [N, 2]."""
    sums = np.add.reduceat(np.asarray(table.aligned["reference"], np.float64), table.response.offsets[:-1])
    gap, scale = np.abs(sums.reshape(theirs.shape) - theirs), np.abs(theirs)
    return {
        "largest_relative": float((gap / scale).max()),
        "agrees": bool((gap <= tolerance * np.maximum(1, scale)).all()),
    }


def losses(ours: Sequence[float], theirs: Sequence[float], tolerance: float) -> dict[str, Any]:
    """Both begin at log 2, and are the same at every step over the same batches."""
    gaps = np.subtract(ours, theirs)
    first = max(abs(ours[0] - np.log(2)), abs(theirs[0] - np.log(2)))
    return {
        "steps": len(gaps),
        "first_from_log_2": float(first),
        "largest": float(np.abs(gaps).max()),
        "mean": float(gaps.mean()),
        "agrees": bool(first <= tolerance and (np.abs(gaps) <= tolerance).all()),
    }
