"""What a pair costs in training: prefopt's whole loop, and TRL's step with its best flags, on the same weights.

The arms take turns step by step in one process, and each sees every pair once. prefopt and TRL's sorted arm (T2) go
through the same batches in the same order, TRL's other arms (T1; T0 as it comes) through the same pairs in random
order.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import identity
import limit
import numpy as np
import ours
import pairs
import sizes
import theirs
from interval import dealt, ratio
from turns import taken

from prefopt import stop
from prefopt.engine.loader import Loader

WARM, BLOCKS = 3, 6
STEPS = {"xs": 12, "s": 12, "m": 12}
"""Counted ones, a multiple of BLOCKS, after WARM more."""


def measured(size: str, out: Path, steps: int | None = None) -> dict[str, Any]:
    """The identity checks, and by profile what `compared` says."""
    steps = steps or STEPS[size]
    with tempfile.TemporaryDirectory() as home, stop.heeded():
        folder = Path(home)
        checks = identity.gate(size, folder / "gate")
        found = {
            name: compared(size, profile, folder / name, steps, default=size == "xs" and name == "prompt-heavy")
            for name, profile in pairs.PROFILES.items()
        }
    return {"checks": checks, "profiles": found}


def compared(size: str, profile: pairs.Profile, folder: Path, steps: int, *, default: bool) -> dict[str, Any]:
    """CPU seconds of each arm's blocks, ratios to our faster precision, and to the limit.

    default: whether TRL as it comes is an arm, too.
    """
    shape = sizes.SIZES[size]
    drawn = pairs.drawn(profile, shape.batch * (WARM + steps), shape.vocabulary)
    table, model = pairs.table(drawn), sizes.made(shape, profile.longest)
    plan = Loader(table, batch_size=shape.batch, seed=ours.SEED, round=0).plan
    random = reordered(plan)
    start = theirs.Start(model, drawn, shape.vocabulary, folder, batch=shape.batch, device="cpu")
    search = start.search(plan[len(plan) // 2])
    flags = search[0]["flags"]
    orders = {"T1": random, "T2": plan}
    arms: dict[str, Iterator[Any]] = {name: theirs.steps(start.trainer(flags), order) for name, order in orders.items()}
    if default:
        arms["T0"] = theirs.steps(start.trainer({}), random)
    for precision in ours.PRECISIONS:
        cached = ours.referenced(model, table, precision=precision, batch_size=shape.batch, device="cpu")
        arms[precision] = ours.steps(model, cached, folder, precision=precision, batch_size=shape.batch, device="cpu")
    found = taken(arms, WARM + steps)
    blocks = {
        name: dealt(seconds[WARM:], tokens(drawn, (random if name in ("T0", "T1") else plan)[WARM:]), BLOCKS)
        for name, seconds in found.items()
    }
    fast = min(ours.PRECISIONS, key=lambda precision: sum(blocks[precision]))
    same = "bf16-mixed" if flags["bf16"] else "32-true"
    counted = [drawn[row] for rows in plan[WARM:] for row in rows]
    rate = limit.rate(fast)
    least = limit.flops(shape, counted) / rate
    return {
        "pairs": len(counted),
        "search": search,
        "blocks": blocks,
        "steps": found,
        "losses": found.losses,
        "ours": fast,
        "theirs": same,
        "flops_a_second": rate,
        "T1": ratio(blocks["T1"], blocks[fast]),
        "T2": ratio(blocks["T2"], blocks[fast]),
        "same precision and batches": ratio(blocks["T2"], blocks[same]),
        "limit": {name: sum(seconds) / least for name, seconds in blocks.items()},
        "ms a pair": {name: 1000 * sum(seconds) / len(counted) for name, seconds in blocks.items()},
    }


def reordered(plan: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Batches of as many examples, shuffled over all counted steps, and those of the warm-up among themselves."""
    draws = np.random.default_rng(ours.SEED)
    parts = [draws.permutation(np.concatenate(part)) for part in (plan[:WARM], plan[WARM:])]
    return np.split(np.concatenate(parts), np.cumsum([len(rows) for rows in plan])[:-1])


def tokens(drawn: Sequence[pairs.Pair], plan: Sequence[np.ndarray]) -> list[int]:
    """Of each batch, padded."""
    longest = [len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)) for pair in drawn]
    return [max(longest[row] for row in rows) * len(rows) for rows in plan]
