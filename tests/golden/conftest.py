"""Runs that can be killed: in processes of their own; and which runs of a stack train alone."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple

import pytest

from prefopt.loop import together
from prefopt.loop.fit import Training
from prefopt.store import CHECKOUT

SERVER = Path(__file__).with_name("server.py")


class Ended(NamedTuple):
    """A process's exit code, negative for a signal, and what it said on its standard output and error."""

    code: int
    said: str


class Processes:
    """Starts runs as processes, many or one by one."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, str(SERVER)], cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, overrides: Sequence[str], home: Path, dies: tuple[str, int] | None = None) -> Ended:
        """A run from its start to its end; `dies` says where SIGKILL meets it."""
        with NamedTemporaryFile() as log:
            code = self.wait(self.fork(overrides, home, Path(log.name), dies))
            return Ended(code, Path(log.name).read_text())

    def fork(self, overrides: Sequence[str], home: Path, log: Path, dies: tuple[str, int] | None = None) -> int:
        """The pid of a run that has begun, and says what it says to `log`."""
        return self._ask({"overrides": list(overrides), "home": str(home), "log": str(log), "dies": dies})

    def wait(self, pid: int) -> int:
        """The exit code of a run that was forked."""
        return self._ask({"wait": pid})

    def close(self) -> None:
        self._server.communicate()

    def _ask(self, job: dict[str, Any]) -> int:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    started = Processes()
    yield started
    started.close()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the methods that `fit_together` trains alone."""
    found: list[str] = []
    fit = together.fit

    def noted(training: Training) -> None:
        found.append(type(training.method).__name__)
        fit(training)

    monkeypatch.setattr(together, "fit", noted)
    return found
