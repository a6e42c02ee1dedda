"""CPU seconds a pair: prefopt's whole loop, and TRL's step with its best flags, on the same weights and pairs.

The arms take turns step by step in one process; each sees every pair once. prefopt and TRL's sorted arm go through the
same batches in the same order, TRL's other arms through the same pairs in random order. Nothing counts unless both
compute the same: see `identity`.
"""

import copy
import tempfile
from collections.abc import Iterator
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

from prefopt.engine.loader import Loader

PRECISIONS = ("32-true", "bf16-mixed")
WARM, BLOCKS, SEED = 3, 6, 0


def measured(size: str, profile: pairs.Profile, steps: int, *, default: bool = False) -> dict[str, Any]:
    """Seconds a block of every arm, ratios, and the limit. steps: counted ones, a multiple of BLOCKS, after WARM more.

    default: whether TRL as it comes is an arm, too.
    """
    shape = sizes.SIZES[size]
    batch = shape.batch
    drawn = pairs.drawn(profile, batch * (WARM + steps), shape.vocabulary, SEED)
    table, model = pairs.table(drawn), sizes.made(shape, profile.longest, SEED)
    plan = Loader(table, batch_size=batch, seed=SEED, round=0).plan
    random = reordered(plan, WARM, np.random.default_rng(SEED))
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        trl = Trl(model, pairs.rows(drawn), pairs.tokenizer(shape.vocabulary), folder, batch, profile.longest)
        best, searched = trl.search(plan[len(plan) // 2])
        arms: dict[str, Iterator[Any]] = {}
        checks: dict[str, Any] = {}
        if default:
            arms["T0"] = theirs.steps(trl.trainer({}), random)
        for name, order in (("T1", random), ("T2", plan)):
            trainer = trl.trainer(best)
            arms[name] = theirs.steps(trainer, order)
        for precision in PRECISIONS:
            cached = ours.referenced(model, table, precision=precision, batch_size=batch, device="cpu")
            checks[f"log-probs, {precision}"] = identity.logps(cached, theirs.reference(trainer), precision)
            arms[precision] = ours.steps(
                copy.deepcopy(model),
                cached,
                folder / precision,
                precision=precision,
                batch_size=batch,
                seed=SEED,
                device="cpu",
            )
        found = taken(arms, WARM + steps)
        rates = {precision: limit.rate(precision) for precision in PRECISIONS}
    for precision in PRECISIONS:
        checks[f"losses, {precision}"] = identity.losses(found.losses[precision], found.losses["T2"], precision)
    tokens = {name: [weight(drawn, rows) for rows in order[WARM:]] for name, order in (("T1", random), ("T2", plan))}
    blocks = {
        name: dealt(seconds[WARM:], tokens["T1" if name in ("T0", "T1") else "T2"], BLOCKS)
        for name, seconds in found.items()
    }
    fast = min(PRECISIONS, key=lambda precision: sum(blocks[precision]))
    counted = [drawn[row] for rows in plan[WARM:] for row in rows]
    least = limit.flops(shape, counted) / rates[fast]
    same = "bf16-mixed" if best["bf16"] else "32-true"
    return {
        "size": size,
        "pairs": len(counted),
        "seconds": blocks,
        "steps": found,
        "losses": found.losses,
        "flags": best,
        "search": searched,
        "checks": checks,
        "void": sorted(name for name, check in checks.items() if not check["agrees"]),
        "precision": {"ours": fast, "theirs": same},
        "rate": rates,
        "ratio": {
            "T1": ratio(blocks["T1"], blocks[fast]),
            "T2": ratio(blocks["T2"], blocks[fast]),
            "same": ratio(blocks["T2"], blocks[same]),
        },
        "limit": {name: sum(blocks[name]) / least for name in ("T1", "T2", fast)},
    }


class Trl:
    """TRL's trainers on the same start and pairs."""

    def __init__(self, model: Any, rows: Any, tokenizer: Any, folder: Path, batch: int, longest: int) -> None:
        self.model, self.rows, self.tokenizer, self.folder = model, rows, tokenizer, folder
        self.shared = {
            "per_device_train_batch_size": batch,
            "max_length": longest,
            "learning_rate": ours.LEARNING_RATE,
            "use_cpu": True,
        }

    def trainer(self, flags: dict[str, Any], rows: np.ndarray | None = None) -> Any:
        texts = self.rows if rows is None else [self.rows[row] for row in rows]
        reference = {} if "precompute_ref_log_probs" in flags else {"ref_model": copy.deepcopy(self.model)}
        return theirs.trainer(
            copy.deepcopy(self.model), self.tokenizer, texts, self.folder / "trl", **reference, **self.shared, **flags
        )

    def search(self, rows: np.ndarray) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The fastest flags, by one step over these rows after a step to warm up, and what each took."""
        tried = []
        for bf16 in (False, True):
            for checkpointing in (False, True):
                flags = {"precompute_ref_log_probs": True, "gradient_checkpointing": checkpointing, "bf16": bf16}
                arm = theirs.steps(self.trainer(flags, rows), [np.arange(len(rows))] * 2)
                tried.append({"flags": flags, "seconds": taken({"": arm}, 2)[""][1]})
        return min(tried, key=lambda each: each["seconds"])["flags"], tried


def reordered(plan: list[np.ndarray], warm: int, draws: np.random.Generator) -> list[np.ndarray]:
    """Batches of as many examples, shuffled over all steps, those of the first `warm` steps among themselves."""
    cut = [len(rows) for rows in plan]
    parts = [draws.permutation(np.concatenate(part)) for part in (plan[:warm], plan[warm:])]
    return np.split(np.concatenate(parts), np.cumsum(cut)[:-1])


def weight(drawn: list[pairs.Pair], rows: np.ndarray) -> int:
    """Tokens of a padded batch."""
    return max(len(drawn[row].prompt) + max(map(len, drawn[row][1:])) for row in rows) * len(rows)
