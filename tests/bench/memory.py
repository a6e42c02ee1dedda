"""Peak memory of training above imports and model, each arm in a process of its own: `memory.py --arm T1` is one."""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STEPS = 3


def measured(
    size: str,
    batch: int,
    profile: str = "prompt-heavy",
    device: str = "cpu",
    precisions: Sequence[str] = ("32-true", "bf16-mixed"),
    repeats: int = 2,
) -> dict[str, Any]:
    """Bytes that each arm takes in `repeats` fresh processes, each time on other pairs, and which take the least."""
    sides = {"T1": [f"T1, {precision}" for precision in precisions], "ours": list(precisions)}
    found: dict[str, list[int]] = {arm: [] for arms in sides.values() for arm in arms}
    environment = os.environ | {"MALLOC_ARENA_MAX": "1"}
    what = [f"--size={size}", f"--batch={batch}", f"--profile={profile}", f"--device={device}"]
    for seed in range(repeats):
        for arm, peaks in found.items():
            command = [sys.executable, __file__, f"--arm={arm}", f"--seed={seed}", *what]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            peaks.append(json.loads(done.stdout.splitlines()[-1]))
    least = {side: min(arms, key=lambda arm: sum(found[arm])) for side, arms in sides.items()}
    return {"bytes": found, "arms": least}


def peak(arm: str, size: str, batch: int, profile: str, device: str, seed: int) -> int:
    """Bytes above imports, model and pairs at the highest point of STEPS steps; reference log-probs are cached."""
    import ours
    import pairs
    import sizes
    import theirs
    import torch

    from prefopt import stop
    from prefopt.engine.loader import Loader

    lengths = (pairs.LONG if device == "cuda" else pairs.PROFILES)[profile]
    shape, precision = sizes.SIZES[size], arm.removeprefix("T1, ")
    drawn = pairs.drawn(lengths, batch * STEPS, shape.vocabulary, seed)
    table, model = pairs.table(drawn), sizes.made(shape, lengths.longest)
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], fused=True).step()  # imports what every first step does
    with tempfile.TemporaryDirectory() as home, stop.heeded():
        os.environ["PREFOPT_HOME"] = home
        if arm == precision:
            cached = ours.referenced(model, table, precision=precision, batch_size=batch, device=device)
            steps = ours.steps(model, cached, Path(home), precision=precision, batch_size=batch, device=device)
        else:
            start = theirs.Start(model, drawn, shape.vocabulary, Path(home), batch=batch, device=device)
            plan = Loader(table, batch_size=batch, seed=ours.SEED, round=0).plan
            steps = theirs.steps(start.trainer({**theirs.BEST, "bf16": precision == "bf16-mixed"}), plan)
        before = settled(device)
        for _ in range(STEPS):
            next(steps)
        return highest(device) - before


def settled(device: str) -> int:
    """Bytes in use, once what is free has been given back; what was used before no longer counts as the highest."""
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def highest(device: str) -> int:
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    return status("VmHWM")


def status(field: str) -> int:
    """Bytes, of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name, kind in {"arm": str, "size": str, "batch": int, "profile": str, "device": str, "seed": int}.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    print(peak(**vars(parser.parse_args())))
