"""How fast it is on one GPU, against the targets: `make bench-gpu`. Offline, and without MLflow.

The protocol is that of `bench.py`, with CUDA events for a clock, all in bfloat16. `--device cpu --quick` exercises the
same code with the smallest model where there is no GPU; its figures are not those of a GPU and are not written down as
such.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import bench
import report
from bench import Part

CASES = {
    "m": [("prompt-heavy", 8), ("prompt-heavy", 16), ("prompt-heavy", 32)],
    "0.5B": [("prompt-heavy", 8), ("response-heavy", 8)],
    "1B": [("prompt-heavy", 8), ("response-heavy", 8)],
}
"""Profile and batch; the large models meet the long ones."""
TURNS, TURN = 6, 9
"""Counted turns, and steps in each: 54 steps."""


def measured(size: str, cases: list[tuple[str, int]], device: str, turn: int = TURN) -> dict[str, Any]:
    """The identity checks, and by profile and batch what `throughput.compared` says."""
    import identity
    import pairs
    import throughput

    from prefopt import stop

    profiles = pairs.LONG if size.endswith("B") else pairs.PROFILES
    with tempfile.TemporaryDirectory() as home, stop.heeded():
        folder = Path(home)
        checks = identity.gate(size, folder / "gate", device)
        found = {
            f"{name}, batch {batch}": throughput.compared(
                size,
                profiles[name],
                folder / f"{name}-{batch}",
                TURNS,
                turn=turn,
                batch=batch,
                precisions=["bf16-mixed"],
                device=device,
            )
            for name, batch in cases
        }
    return {"checks": checks, "profiles": found}


def parts(device: str, quick: bool) -> dict[str, Part]:
    if quick:
        case = {"size": "xs", "cases": [("prompt-heavy", 2)], "device": device, "turn": 1}
        kept = {"size": "xs", "batch": 2, "device": device, "precisions": ["bf16-mixed"], "repeats": 1}
        return {"throughput xs": Part("gpu", case), "memory xs": Part("memory", kept)}
    made = {
        f"throughput {size}": Part("gpu", {"size": size, "cases": cases, "device": device})
        for size, cases in CASES.items()
    }
    for size in ("0.5B", "1B"):
        kept = {"size": size, "batch": 8, "device": device, "precisions": ["bf16-mixed"], "repeats": 1}
        made[f"memory {size}"] = Part("memory", kept)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the output folder; bench-gpu/ in the home")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="the smallest model, few steps: to see that it works")
    given = parser.parse_args()
    import torch

    from prefopt.store import home

    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --device cpu --quick tries the code without one")
    if given.device == "cpu" and not given.quick:
        parser.error("--device cpu is to try the code, with --quick")
    out = given.out or home() / "bench-gpu"
    return bench.carry_out(parts(given.device, given.quick), out, report.gpu_rows, workers=1)


if __name__ == "__main__":
    sys.exit(main())
