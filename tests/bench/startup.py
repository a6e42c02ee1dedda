"""What a user waits for before the first step, in CPU seconds of fresh processes; alone, as a table of all stages.

Every figure is the least of several runs, user and system time of the process and its children. Absolute times say
little on a busy machine; the share of the time to the first step is what to compare.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence

FIRST_STEP = """
from prefopt.tracking.telemetry import silence
silence()
from prefopt.config import composed
config = composed(["tracking=none", "evaluation.times=1"])
from prefopt.loop.record import Record
from prefopt.run import run

def leave(*_):
    raise SystemExit(0)

Record.on_train_batch_end = leave
config.method.needs = {"policy": None, "reference": "cached"}
run(config)
"""

STAGES = {
    "python alone": ["-c", "pass"],
    "--help": ["-m", "prefopt.train", "--help"],
    "list": ["-m", "prefopt.methods"],
    "configuration error": ["-m", "prefopt.train", "method=rdpp"],
    "compose the configuration": ["-c", "from prefopt.config import composed; composed([])"],
    "import torch": ["-c", "import torch"],
    "import lightning.pytorch": ["-c", "import lightning.pytorch"],
    "import prefopt.run": ["-c", "import prefopt.run"],
    "the first step of the tiny model": ["-c", FIRST_STEP],
}


def measured(stages: Sequence[str] = tuple(STAGES), repeats: int = 5) -> dict[str, list[float]]:
    """CPU seconds of each run of each stage."""
    return {stage: [cpu_seconds(STAGES[stage]) for _ in range(repeats)] for stage in stages}


def cpu_seconds(arguments: list[str]) -> float:
    """User and system time of a Python process with these arguments."""
    with tempfile.TemporaryDirectory() as home:
        before = os.times()
        environment = os.environ | {"PREFOPT_HOME": home, "OMP_NUM_THREADS": "1"}
        ended = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=False)
        after = os.times()
    expected = 2 if "method=rdpp" in arguments else 0
    assert ended.returncode == expected, ended.stderr
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    least = {stage: min(seconds) for stage, seconds in measured(repeats=3).items()}
    whole = list(least.values())[-1]
    table = Table("stage", "CPU seconds", "share of the first step")
    for stage, seconds in least.items():
        table.add_row(stage, f"{seconds:.2f}", f"{seconds / whole:.0%}")
    Console().print(table)


if __name__ == "__main__":
    main()
