"""What later cells of a sweep on this machine pay until their first step is done, in CPU seconds of their forks."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RATES = "noise.rate=0.05,0.1,0.15,0.2,0.25,0.3"
SIZE = ("trainer=cpu", "rounds=1", "evaluation.times=1", "evaluation.prompts=16", "method=dpo", RATES)
WORLDS = {
    "exact world": ("dataset=bandit", "model=log_linear", "dataset.pairs=256", "dataset.test_pairs=64"),
    "text": ("dataset=words", "model=tiny", "dataset.pairs=512", "dataset.demonstrations=512", "dataset.test_pairs=64"),
}


def measured() -> dict[str, list[float]]:
    """Of each world, the CPU seconds of every cell but the first."""
    return {world: of_cells([*overrides, *SIZE])[1:] for world, overrides in WORLDS.items()}


def of_cells(overrides: list[str]) -> list[float]:
    """CPU seconds from the fork to the end of the first step, cell by cell."""
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"PREFOPT_HOME": home, "OMP_NUM_THREADS": "1", "SUBMITIT_EXECUTOR": "local"}
        plan = [sys.executable, "-m", "prefopt.train", "-m", *overrides, "hydra.launcher.submit=false"]
        subprocess.run(plan, env=environment, check=True, capture_output=True)
        (sweep,) = Path(home, "sweeps").iterdir()
        subprocess.run([sys.executable, __file__, str(sweep)], env=environment, check=True, capture_output=True)
        return [float(line) for line in (sweep / "first_steps").read_text().splitlines()]


def carry_out(sweep: Path) -> None:
    """The sweep's runs in forks of this process, one after the other; each cell notes when its first step is done."""
    from launchers.work import Work
    from prefopt.manifest import Manifest
    from prefopt.methods.base import Method

    manifest, step = Manifest.read(sweep), Method.training_step
    cells = {cell.run for cell in manifest.cells}
    carried_out = Work._carried_out

    def noted(work: Work, manifest: Any, names: tuple[str, ...]) -> int:
        began, pending = time.process_time(), cells >= set(names)

        def first(method: Method, *given: Any) -> None:
            nonlocal pending
            step(method, *given)
            if pending:
                pending = False
                with (sweep / "first_steps").open("a") as file:
                    file.write(f"{time.process_time() - began}\n")

        Method.training_step = first  # type: ignore[method-assign]
        return carried_out(work, manifest, names)

    Work._carried_out = noted  # type: ignore[method-assign]
    runs = tuple(entry.run for entry in (*manifest.stages, *manifest.cells))
    Work(sweep, runs, False, time.time(), forks=1)()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        carry_out(Path(sys.argv[1]))
    else:
        print(measured())
