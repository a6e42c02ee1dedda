"""What cells of an exact world cost when they are stacked, and one after the other, in CPU seconds: `make bench`.

K cells (four methods, four flip rates, K/16 seeds) are carried out both ways in turn, in one process that is warm. The
steps are what training costs but for the evaluations on its way; the whole is all that a run does but for reading its
configuration, without figures and without MLflow. Intervals are of the mean ratio, by bootstrap over runs and stacks.
"""

from typing import Any

METHODS = ("dpo", "rdpo", "cdpo", "ipo")
RATES = (0.1, 0.2, 0.3, 0.4)
REPEATS = 3
WORLD = ("dataset=bandit", "model=log_linear", "tracking=none", "trainer=cpu", "evaluation.figures=false")


def cells(count: int) -> list[Any]:
    """The first `count` configurations of a sweep over methods, rates and seeds; stacks are of a quarter of them."""
    from prefopt.config import composed

    swept = [(m, rate, seed) for seed in range(4) for rate in RATES for m in METHODS][:count]
    return [composed([*WORLD, f"method={m}", f"noise.rate={rate}", f"seed={seed}"]) for m, rate, seed in swept]
