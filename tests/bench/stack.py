"""What cells of an exact world cost as one and one after the other, in CPU seconds of this process: `make bench`.

Stacks of 64 cells and single cells take turns, in a process that has done both before. The world is `dataset=bandit
model=log_linear` as it comes, without figures and without MLflow. Training leaves out the evaluations on its way; a
step is what training costs more where it is three times as long; the whole is all that a run does but for composing its
configuration. Intervals are of the ratio of means, 90 %, by bootstrap over cells and over stacks.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

WORLD = ("dataset=bandit", "model=log_linear", "tracking=none", "trainer=cpu", "evaluation.figures=false")
RATES = (0.1, 0.2, 0.3, 0.4)
SWEEPS = {
    "one method": [("dpo", seed, rate) for seed in range(16) for rate in RATES],
    "four methods": [(m, seed, rate) for seed in range(4) for rate in RATES for m in ("dpo", "rdpo", "cdpo", "ipo")],
}
"""64 cells each: method, seed, flip rate."""
TURNS, AT_A_TURN, ROUNDS = 3, 4, (10, 30)
"""Of single cells of a sweep there are so many at a turn. Rounds are of 16 steps."""

Cells = Sequence[tuple[str, int, float]]


class Cost(NamedTuple):
    """CPU seconds."""

    training: float
    whole: float


class Clock:
    """CPU seconds spent in a function of a module or class since it was last read."""

    def __init__(self, owner: Any, name: str) -> None:
        self.spent = 0.0
        function = getattr(owner, name)

        def clocked(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.spent += time.process_time() - began

        setattr(owner, name, clocked)

    def read(self) -> float:
        spent, self.spent = self.spent, 0.0
        return spent


class Clocks:
    """What it costs to carry cells out."""

    def __init__(self) -> None:
        import prefopt.run
        from prefopt.evaluation.suite import Examination

        self.training = [Clock(prefopt.run, name) for name in ("fit", "fit_together")]
        self.measuring = Clock(Examination, "during")

    def together(self, cells: Cells, rounds: int) -> Cost:
        from prefopt.run import run_together

        return self._of(lambda configs: run_together([(config, None) for config in configs]), cells, rounds)

    def alone(self, cell: tuple[str, int, float], rounds: int) -> Cost:
        from prefopt.run import run

        return self._of(lambda configs: run(configs[0]), [cell], rounds)

    def _of(self, carry_out: Callable[[list[Any]], Any], cells: Cells, rounds: int) -> Cost:
        configs = [configured(*cell, rounds) for cell in cells]
        with tempfile.TemporaryDirectory() as home:
            os.environ["PREFOPT_HOME"] = home
            began = time.process_time()
            carry_out(configs)
            whole = time.process_time() - began
        return Cost(sum(clock.read() for clock in self.training) - self.measuring.read(), whole)


@cache
def configured(method: str, seed: int, rate: float, rounds: int) -> Any:
    from prefopt.config import composed

    return composed([*WORLD, f"method={method}", f"seed={seed}", f"noise.rate={rate}", f"rounds={rounds}"])


def resampled(costs: list[Cost]) -> Any:
    """[4001, 2] means of training and of the whole: of all, then of bootstraps."""
    import numpy as np

    values, draws = np.array(costs), np.random.default_rng(0)
    chosen = draws.integers(len(values), size=(4000, len(values)))
    return np.concatenate([values.mean(0)[None], values[chosen].mean(1)])


def measured(turns: int = TURNS) -> dict[str, dict[str, list[float]]]:
    """By stack, of training, of the whole and of a step: CPU seconds one after the other and as one, and the ratio with
    the ends of its interval."""
    import numpy as np

    clocks = Clocks()
    clocks.together(SWEEPS["one method"][:2], 1)
    clocks.alone(SWEEPS["one method"][0], 1)
    stacks: dict[tuple[str, int], list[Cost]] = {}
    alone: dict[tuple[str, int], list[Cost]] = {}
    for turn in range(turns):
        for rounds in ROUNDS:
            for sweep, cells in SWEEPS.items():
                stacks.setdefault((sweep, rounds), []).append(clocks.together(cells, rounds))
                costs = [clocks.alone(cell, rounds) for cell in cells[5 * turn :: len(cells) // AT_A_TURN][:AT_A_TURN]]
                alone.setdefault((sweep, rounds), []).extend(costs)
    found: dict[str, dict[str, list[float]]] = {}
    for sweep, cells in SWEEPS.items():
        short, long = (
            (len(cells) * resampled(alone[sweep, rounds]), resampled(stacks[sweep, rounds])) for rounds in ROUNDS
        )
        more = 16 * (ROUNDS[1] - ROUNDS[0])
        rows = {
            "a step": [(b - a)[:, 0] / more for a, b in zip(short, long, strict=True)],
            "training": [x[:, 0] for x in short],
            "the whole": [x[:, 1] for x in short],
        }
        for name, (apart, together) in rows.items():
            ends = np.quantile((apart / together)[1:], (0.05, 0.95))
            figures = [apart[0], together[0], apart[0] / together[0], *ends]
            found.setdefault(f"{len(cells)}, {sweep}", {})[name] = [float(figure) for figure in figures]
    return found


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    from prefopt.tracking.telemetry import silence

    silence()
    from rich.console import Console
    from rich.table import Table

    table = Table("cells", "", "one after the other, CPU s", "as one", "times as fast", "90 % interval")
    for cells, rows in measured().items():
        for name, (apart, together, ratio, low, high) in rows.items():
            shown = cells if name == "a step" else ""
            table.add_row(shown, name, f"{apart:.4f}", f"{together:.4f}", f"{ratio:.1f}", f"{low:.1f} .. {high:.1f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
