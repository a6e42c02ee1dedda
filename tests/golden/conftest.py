"""Runs that can be killed: in processes of their own."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

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

    def start(self, overrides: Sequence[str], home: Path, dies: tuple[str, int] | None = None) -> tuple[int, Path]:
        """The pid of a run, and where it says what it says."""
        home.mkdir(exist_ok=True)
        log = home / f"said-{len(list(home.glob('said-*')))}.txt"
        log.touch()
        return self._ask({"overrides": list(overrides), "home": str(home), "log": str(log), "dies": dies}), log

    def end(self, process: tuple[int, Path]) -> Ended:
        """Wait for a started run."""
        pid, log = process
        return Ended(self._ask({"wait": pid}), log.read_text())

    def run(self, overrides: Sequence[str], home: Path, dies: tuple[str, int] | None = None) -> Ended:
        return self.end(self.start(overrides, home, dies))

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
