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

WARM, BLOCKS = 2, 6
STEPS = {"xs": 12, "s": 12, "m": 6}
"""Counted ones, a multiple of BLOCKS, after WARM more."""


def measured(size: str, steps: int | None = None) -> dict[str, Any]:
    """The identity checks, and by profile what `compared` says; TRL's flags are searched for on the first."""
    with tempfile.TemporaryDirectory() as home, stop.heeded():
        folder = Path(home)
        checks = identity.gate(size, folder / "gate")
        found: dict[str, Any] = {}
        for name, profile in pairs.PROFILES.items():
            search = next(iter(found.values()))["search"] if found else None
            first = size == "xs" and not found
            turns = steps or STEPS[size]
            found[name] = compared(size, profile, folder / name, turns, search=search, as_it_comes=first)
    return {"checks": checks, "profiles": found}


def compared(
    size: str,
    profile: pairs.Profile,
    folder: Path,
    turns: int,
    *,
    turn: int = 1,
    batch: int | None = None,
    precisions: Sequence[str] = ours.PRECISIONS,
    device: str = "cpu",
    search: list[dict[str, Any]] | None = None,
    as_it_comes: bool = False,
) -> dict[str, Any]:
    """Seconds of each arm's blocks, ratios to our faster precision, and to the limit.

    turns: counted ones, of `turn` steps each. batch: pairs, the size's own where none is given. search: what one found
    on other pairs; it is made on these where none is given. as_it_comes: whether TRL with its defaults is an arm, too.
    """
    shape = sizes.SIZES[size]
    batch = batch or shape.batch
    drawn = pairs.drawn(profile, batch * turn * (WARM + turns), shape.vocabulary)
    table, model = pairs.table(drawn), sizes.made(shape, profile.longest).to(device)
    plan = Loader(table, batch_size=batch, seed=ours.SEED, round=0).plan
    random = reordered(plan, WARM * turn)
    start = theirs.Start(model, drawn, shape.vocabulary, folder, batch=batch, device=device)
    search = search or start.search(plan[len(plan) // 2], precisions)
    flags = search[0]["flags"]
    orders = {"T1": random, "T2": plan}
    arms: dict[str, Iterator[Any]] = {name: theirs.steps(start.trainer(flags), order) for name, order in orders.items()}
    if as_it_comes:
        arms["T0"] = theirs.steps(start.trainer({}), random)
    for precision in precisions:
        cached = ours.referenced(model, table, precision=precision, batch_size=batch, device=device)
        arms[precision] = ours.steps(model, cached, folder, precision=precision, batch_size=batch, device=device)
    found = taken(arms, WARM + turns, steps=turn, device=device)
    blocks = {}
    for name, seconds in found.items():
        padded = tokens(drawn, random if name in ("T0", "T1") else plan).reshape(-1, turn).sum(1)
        blocks[name] = dealt(seconds[WARM:], padded[WARM:], BLOCKS)
    fast = min(precisions, key=lambda precision: sum(blocks[precision]))
    same = "bf16-mixed" if flags["bf16"] else "32-true"
    counted = [drawn[row] for rows in plan[WARM * turn :] for row in rows]
    rate = limit.rate(fast, device)
    least = limit.flops(shape, counted) / rate
    return {
        "pairs": len(counted),
        "search": search,
        "blocks": blocks,
        "turns": found,
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


def reordered(plan: Sequence[np.ndarray], warm: int) -> list[np.ndarray]:
    """Batches of as many examples, shuffled over all counted steps, and those of `warm` steps among themselves."""
    draws = np.random.default_rng(ours.SEED)
    parts = [draws.permutation(np.concatenate(part)) for part in (plan[:warm], plan[warm:])]
    return np.split(np.concatenate(parts), np.cumsum([len(rows) for rows in plan])[:-1])


def tokens(drawn: Sequence[pairs.Pair], plan: Sequence[np.ndarray]) -> np.ndarray:
    """Of each batch, padded."""
    longest = [len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)) for pair in drawn]
    return np.array([max(longest[row] for row in rows) * len(rows) for rows in plan])
