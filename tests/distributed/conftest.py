"""Runs of several processes, as torchrun starts them: each told its rank, all where the first one listens."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest

from prefopt import ranks
from prefopt.store import CHECKOUT

SERVER = Path(__file__).with_name("server.py")


class Ended(NamedTuple):
    """Exit codes, negative for signals, and what each process said, by rank."""

    codes: list[int]
    said: list[str]


class Processes:
    """Starts runs, one after another."""

    def __init__(self) -> None:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        self._server = subprocess.Popen(
            [sys.executable, str(SERVER)],
            cwd=CHECKOUT,
            env=plain | {"GLOO_SOCKET_IFNAME": "lo"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self, overrides: Sequence[str], home: Path, world: int = 1, signalled: tuple[int, int, int] | None = None
    ) -> Ended:
        """A run of `world` processes from start to end; `signalled`: a rank, its signal, and after which step."""
        together = {"WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        with TemporaryDirectory() as logs:
            jobs: list[dict[str, Any]] = []
            for rank in range(world):
                environment = {"PREFOPT_HOME": home, **together, "RANK": rank, "LOCAL_RANK": rank}
                jobs.append(
                    {
                        "environment": {name: str(value) for name, value in environment.items()},
                        "overrides": list(overrides),
                        "log": f"{logs}/{rank}",
                        "signalled": signalled[1:] if signalled and signalled[0] == rank else None,
                    }
                )
            assert self._server.stdin is not None and self._server.stdout is not None
            self._server.stdin.write(json.dumps(jobs) + "\n")
            self._server.stdin.flush()
            codes = json.loads(self._server.stdout.readline())
            return Ended(codes, [Path(job["log"]).read_text() for job in jobs])

    def close(self) -> None:
        self._server.communicate()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    started = Processes()
    yield started
    started.close()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Pretends that this process was started with these variables, and none of SLURM's or torchrun's besides."""

    def start(**variables: str) -> None:
        for name in list(os.environ):
            if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK"):
                monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        ranks.place.cache_clear()

    yield start
    ranks.place.cache_clear()
