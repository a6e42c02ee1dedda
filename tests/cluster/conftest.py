"""The cluster that these tests run on: the real SLURM of launchers/slurm, one test file at a time."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

SCRIPTS = Path(__file__).resolve().parents[2] / "launchers" / "slurm"
STATE = Path(os.environ.get("PREFOPT_SLURM", "/tmp/prefopt-slurm"))


def output(*command: str | Path) -> str:
    """What a command prints; one that fails shows what it said."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll until `condition` holds; a failure names `what` was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, (
            f"waited {seconds} s for {what}\n{output('squeue')}\n{output('sinfo', '-N')}"
        )
        time.sleep(0.2)


@dataclass(frozen=True)
class Node:
    name: str

    def state(self) -> str:
        """`idle`, `mixed`, `allocated`, `down`, ...; a node that does not answer has a `*` behind it."""
        return output("sinfo", "-h", "-n", self.name, "-p", "low", "-o", "%T")

    def kill(self) -> None:
        """Pull its plug, and wait until SLURM has noticed: about 20 seconds."""
        output(SCRIPTS / "node", self.name, "kill")
        until(lambda: self.state().startswith("down"), 60, f"{self.name} to be down")

    def start(self) -> None:
        """Plug it in, and wait until it is back."""
        output(SCRIPTS / "node", self.name, "start")
        until(lambda: self.state() in ("idle", "mixed", "allocated"), 30, f"{self.name} to be back")


class Slurm:
    """The one-machine cluster. Jobs in `low` are preempted by those in `high`."""

    low, high = "low", "high"
    nodes = (Node("n1"), Node("n2"))
    until = staticmethod(until)

    def sbatch(self, *arguments: str | Path) -> str:
        """Submit; gives the job's id."""
        return output("sbatch", "--parsable", *arguments)

    def squeue(self, *arguments: str) -> list[str]:
        """The rows of the queue, an array task each."""
        return output("squeue", "-h", "-r", *arguments).splitlines()

    def job(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says of a job or array task: JobState, Restarts, ExitCode, BatchHost, ..."""
        fields = output("scontrol", "show", "job", "-o", job).split(" ")
        return dict(field.split("=", 1) for field in fields if "=" in field)

    def preempt(self, *nodes: Node, seconds: int = 1) -> str:
        """Take whole nodes (or all) for so long and push their `low` jobs off; gives the job's id."""
        names = ",".join(node.name for node in nodes or self.nodes)
        taken = ("-p", self.high, "--exclusive", "-w", names, "-N", str(len(nodes or self.nodes)))
        return self.sbatch(*taken, "--output=/dev/null", f"--wrap=sleep {seconds}")


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    """The cluster of launchers/slurm and no other, with no other test file on it meanwhile: found up, or brought up and
    down again where that can be done.

    Where it cannot, tests are skipped; but in CI they fail.
    """
    with FileLock(Path(tempfile.gettempdir(), "prefopt-cluster-tests.lock")), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(STATE / "slurm.conf"))
        up = shutil.which("sinfo") is not None and subprocess.run(["sinfo"], capture_output=True).returncode == 0
        if not up:
            if os.environ.get("CI") != "true" and (os.geteuid() != 0 or shutil.which("slurmctld") is None):
                pytest.skip("SLURM is not up and cannot be brought up from here: make slurm-up")
            output(SCRIPTS / "up")
        yield Slurm()
        if not up:
            output(SCRIPTS / "down")
