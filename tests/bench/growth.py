"""How the time and memory of a step grow with prompt length, response length, responses, vocabulary and batch.

Forward and backward of the engine on a small Llama; everything else is held. Alone, prints the fitted exponents.
"""

import os
from pathlib import Path
from statistics import median
from typing import Any

BASE = {"prompt": 64, "response": 64, "n": 2, "vocabulary": 2048, "batch": 4}
GROWN = {
    "prompt": (128, 256, 512, 1024, 2048),
    "response": (64, 128, 256, 512, 1024),
    "n": (2, 4, 8, 16, 32),
    "vocabulary": (2048, 4096, 8192, 16384, 32768),
    "batch": (2, 4, 8, 16, 32),
}
REPEATS = 3


def measured(points: int = 5) -> dict[str, Any]:
    """CPU seconds and bytes at each point, and the exponents of both over the upper half."""
    import numpy as np

    step(BASE)
    found = {}
    for name, values in GROWN.items():
        costs = [step({**BASE, name: value}) for value in values[:points]]
        curves = {"seconds": [cost[0] for cost in costs], "bytes": [cost[1] for cost in costs]}
        late = slice(points // 2, None)
        slopes = {
            what: float(np.polyfit(np.log(values[:points][late]), np.log(curve[late]), 1)[0])
            for what, curve in curves.items()
            if points > 2
        }
        found[name] = {"values": values[:points], **curves, "exponents": slopes}
    return found


def step(sizes: dict[str, int]) -> tuple[float, int]:
    """CPU seconds, the median of REPEATS, and bytes above what was there."""
    import torch
    from memory import highest, settled
    from sizes import SIZES, made
    from turns import cpu_clock

    from prefopt.batch import Groups
    from prefopt.models.causal import CausalPolicy

    longest = sizes["prompt"] + sizes["response"]
    model = made(SIZES["xs"]._replace(vocabulary=sizes["vocabulary"]), longest)
    policy, draw = CausalPolicy(model, None, max_response_length=1), torch.Generator().manual_seed(0)
    shape = (sizes["batch"], sizes["n"])
    groups = Groups(
        index=torch.arange(sizes["batch"]),
        prompt=torch.randint(2, sizes["vocabulary"], (sizes["batch"], sizes["prompt"]), generator=draw),
        prompt_length=torch.full((sizes["batch"],), sizes["prompt"]),
        response=torch.randint(2, sizes["vocabulary"], (*shape, sizes["response"]), generator=draw),
        length=torch.full(shape, sizes["response"]),
        mean_length=torch.tensor(float(sizes["response"])),
    )

    def work() -> None:
        policy.zero_grad()
        policy.logps(groups).sum().backward()

    work()
    policy.zero_grad()
    before = settled("cpu")
    seconds = [cpu_clock(work)[1] for _ in range(REPEATS)]
    return median(seconds), highest("cpu") - before


def draw(found: dict[str, Any], out: Path) -> None:
    """growth.png and growth.svg: time and memory over what grows, with a line of slope 1 through the last point."""
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, len(found), figsize=(3 * len(found), 5.5), layout="constrained")
    for column, (name, curves) in enumerate(found.items()):
        values = np.array(curves["values"])
        for panel, what in zip(panels[:, column], ("seconds", "bytes"), strict=True):
            panel.loglog(values, curves[what], "o-")
            panel.loglog(values, curves[what][-1] * values / values[-1], "k:", linewidth=1)
            slope = curves["exponents"].get(what)
            panel.set_title("" if slope is None else f"exponent {slope:.2f}", fontsize="small")
            panel.set_xlabel(name)
        panels[0, 0].set_ylabel("CPU seconds a step")
        panels[1, 0].set_ylabel("bytes a step")
    for kind in ("png", "svg"):
        figure.savefig(out / f"growth.{kind}")
    pyplot.close(figure)


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    from rich.console import Console
    from rich.table import Table

    from prefopt.store import home

    out = home() / "bench"
    out.mkdir(parents=True, exist_ok=True)
    table = Table("what grows", "exponent of time", "exponent of memory")
    found = measured()
    draw(found, out)
    for name, curves in found.items():
        table.add_row(name, *(f"{curves['exponents'][what]:.2f}" for what in ("seconds", "bytes")))
    Console().print(table)


if __name__ == "__main__":
    main()
