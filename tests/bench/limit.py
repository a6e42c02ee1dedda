"""The least time that the arithmetic of a step takes: its FLOPs at the rate of this processor's matrix products."""

from collections.abc import Sequence

import torch
from pairs import Pair
from sizes import Size, parameters
from turns import cpu_clock, cuda_clock

SIDE = {"cpu": 1024, "cuda": 8192}


def flops(size: Size, pairs: Sequence[Pair]) -> float:
    """Of forward and backward, every prompt met once and the head at response tokens only."""
    total = 0.0
    for pair in pairs:
        prompt, responses = len(pair.prompt), (len(pair.chosen), len(pair.rejected))
        total += 6 * parameters(size) * (prompt + sum(responses))
        total += 6 * size.hidden * size.vocabulary * sum(responses)
        seen = prompt * prompt / 2 + sum(prompt * response + response * response / 2 for response in responses)
        total += 12 * size.layers * size.hidden * seen
    return total


def rate(precision: str, device: str = "cpu", repeats: int = 8) -> float:
    """FLOP/s of a large square product, the best of several."""
    side, clock = SIDE[device], cuda_clock if device == "cuda" else cpu_clock
    dtype = torch.bfloat16 if precision.startswith("bf16") else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    a @ b
    return max(2 * side**3 / clock(lambda: a @ b)[1] for _ in range(repeats))
