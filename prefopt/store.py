"""The run store: a run is a pure function of its configuration, found again by its fingerprint.

    <home>/<method>-<dataset>-<fingerprint>/   one run: config.yaml, status.json, checkpoints/, policy/, results.json
    <home>/cache/<kind>-<key>/                 what many runs share: tokenised data, reference log-probs

The home is `runs/` in the checkout, or PREFOPT_HOME.
"""

import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefopt import ranks, stop
from prefopt.errors import PrefoptError
from prefopt.files import replace_text

CHECKOUT = Path(__file__).resolve().parent.parent
CANNOT_CHANGE_THE_OUTCOME = frozenset({"tracking", "hydra", "choices"})
FORMAT = 2
"""Part of every fingerprint; a change of the code that changes outcomes raises it."""


def home() -> Path:
    """The one folder that prefopt writes to.

    Raises PrefoptError where its path cannot stand in the address of a database.
    """
    path = Path(os.environ.get("PREFOPT_HOME") or CHECKOUT / "runs").absolute()
    if "?" in str(path):
        raise PrefoptError(f"PREFOPT_HOME={path} has a question mark", "name a folder without one")
    return path


def digest(value: Any) -> str:
    """Hash of a JSON-like value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def fingerprint(config: Mapping[str, Any], contents: Mapping[str, Any]) -> str:
    """The identity of a run: its resolved config, with `contents` in the place of what it names by path."""
    kept = {k: v for k, v in config.items() if k not in CANNOT_CHANGE_THE_OUTCOME}
    return digest({"format": FORMAT, **kept, **contents})[:12]


@dataclass(frozen=True)
class Run:
    """One run's folder."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def results(self) -> Path:
        return self.folder / "results.json"

    @property
    def policy(self) -> Path:
        """Where the trained model is, as a folder that opens by itself."""
        return self.folder / "policy"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def status(self) -> dict[str, Any]:
        path = self.folder / "status.json"
        return json.loads(path.read_text()) if path.exists() else {"state": "new"}

    @property
    def done(self) -> bool:
        return self.status()["state"] == "done" and self.results.exists()

    def failed_since(self, time: float) -> bool:
        """Whether the run failed, at that time or later, in seconds since 1970."""
        status = self.status()
        return status["state"] == "failed" and status["time"] >= time

    def mark(self, state: str, **facts: Any) -> None:
        """Record `state` (waiting, running, interrupted, failed, done), who says so, and `facts`.

        Of several processes the first one speaks.
        """
        if not ranks.first():
            return
        now = {
            "state": state,
            "restarts": self.status().get("restarts", 0),
            "pid": os.getpid(),
            "host": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
            "job": os.environ.get("SLURM_JOB_ID"),
            "time": time.time(),
        }
        replace_text(self.folder / "status.json", json.dumps(now | facts, indent=2))

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    @contextmanager
    def claimed(self, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
        """Hold this run for this process; the lock falls with the process, however it ends.

        waiting: called once with who holds it, before waiting for them; without it a held run is an error.
        Raises Taken where another process holds the run and nobody wants to wait.
        """
        with held(self.lock, lambda: self._holder(waiting)):
            _claims.append(self)
            try:
                yield
            finally:
                _claims.remove(self)

    def _holder(self, waiting: Callable[[str], None] | None) -> None:
        status = self.status()
        who = f"process {status.get('pid', '?')} on {status.get('host', '?')}"
        if waiting is None:
            raise Taken(
                f"{self.folder} is in use by {who}",
                "let it end, or end it; the same command then goes on from its last checkpoint",
            )
        waiting(f"waiting for {self.name}, which {who} is working on")


_claims: list[Run] = []
"""The runs that this process holds, each needed by the one before."""


class Taken(PrefoptError):
    """Another process works on this run."""


def run(method: str, dataset: str, identity: str) -> Run:
    """The run of this identity, whether it exists or not."""
    return Run(home() / f"{method}-{dataset}-{identity}")


GLANCE_S = 0.3
"""Who only looks whether a lock is held has it for an instant."""


@contextmanager
def held(lock: Path, when_taken: Callable[[], None]) -> Iterator[None]:
    """Hold `lock`; where somebody else has it, call `when_taken` and then wait.

    A run of this process for which it is says so in its status. Raises Interrupted where the process is asked to stop.
    """
    from filelock import FileLock, Timeout

    lock.parent.mkdir(parents=True, exist_ok=True)
    guard = FileLock(lock)
    try:
        guard.acquire(timeout=GLANCE_S)
    except Timeout:
        when_taken()
        waiting = _claims[-1] if _claims else None
        if waiting is not None:
            waiting.mark("waiting", on=lock.parent.name if lock.name == "lock" else lock.stem)
        while not guard.is_locked:
            stop.check()
            with suppress(Timeout):
                guard.acquire(timeout=1)
        if waiting is not None:
            waiting.mark("running")
    try:
        yield
    finally:
        guard.release()


def cached(
    kind: str, key: Any, make: Callable[[Path], None], sound: Callable[[Path], bool] = lambda folder: True
) -> Path:
    """The folder that `make` fills, made once for all processes, by the hash of `key`; made anew where it is not
    `sound`."""
    folder = home() / "cache" / f"{kind}-{digest([FORMAT, key])[:16]}"
    if folder.exists() and sound(folder):
        return folder
    with held(folder.with_suffix(".lock"), lambda: None):
        if not (folder.exists() and sound(folder)):
            beside = folder.with_suffix(".part")
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir()
            make(beside)
            (beside / "key.json").write_text(json.dumps(key, indent=2, default=str))
            shutil.rmtree(folder, ignore_errors=True)
            beside.rename(folder)
    return folder
