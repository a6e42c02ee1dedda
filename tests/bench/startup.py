"""What a user waits for before the first step, in CPU seconds of fresh processes: `make bench`.

Every figure is the least of several runs, user and system time of the process and its children. Absolute times say
little on a busy machine; the share of the time to the first step is what to compare.
"""

import os
import subprocess
import sys
import tempfile

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

STAGES = (
    ("python alone", ["-c", "pass"]),
    ("prefopt.train --help", ["-m", "prefopt.train", "--help"]),
    ("an unknown method", ["-m", "prefopt.train", "method=rdpp"]),
    ("compose the configuration", ["-c", "from prefopt.config import composed; composed([])"]),
    ("import torch", ["-c", "import torch"]),
    ("import lightning.pytorch", ["-c", "import lightning.pytorch"]),
    ("import prefopt.run", ["-c", "import prefopt.run"]),
    ("to the first step of the tiny model", ["-c", FIRST_STEP]),
)


def cpu_seconds(arguments: list[str], repeats: int = 3) -> float:
    """The least user and system time of a Python process with these arguments."""
    times = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as home:
            before = os.times()
            environment = os.environ | {"PREFOPT_HOME": home, "OMP_NUM_THREADS": "1"}
            subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=False)
            after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return min(times)


def main() -> None:
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    measured = [(name, cpu_seconds(arguments)) for name, arguments in track(STAGES, "start-up")]
    whole = measured[-1][1]
    table = Table("stage", "CPU seconds", "share of the first step")
    for name, seconds in measured:
        table.add_row(name, f"{seconds:.2f}", f"{seconds / whole:.0%}")
    Console().print(table)


if __name__ == "__main__":
    main()
