"""What MLflow shall know of a run or a sweep besides its metrics, as two small files in its directory.

`tracking.json` is written by the run, `mlflow.json` by whoever sends it; with the event file the first is all that is
needed to send a run, now or later, here or after a copy to another machine.
"""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from prefopt.files import replace_text

RECORD, RECEIPT = "tracking.json", "mlflow.json"
LONGEST_PARAM, LONGEST_TAG = 6000, 8000

Ending = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class Record:
    """key: ours, chosen before MLflow is asked for anything. started, ended: seconds since 1970.

    artifacts, and parent, the directory of the sweep: paths relative to the run's directory.
    edition: counts how often artifacts were attached, under old names perhaps.
    """

    key: str
    experiment: str
    name: str
    params: dict[str, str]
    tags: dict[str, str]
    started: float
    ended: float | None = None
    status: Ending | Literal["RUNNING"] = "RUNNING"
    artifacts: tuple[str, ...] = ()
    parent: str | None = None
    edition: int = 0

    @classmethod
    def load(cls, folder: Path) -> "Record | None":
        path = folder / RECORD
        if not path.exists():
            return None
        entry = json.loads(path.read_text())
        return cls(**entry | {"artifacts": tuple(entry["artifacts"])})

    def save(self, folder: Path) -> None:
        replace_text(folder / RECORD, json.dumps(asdict(self), indent=1))

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Receipt:
    """Where a run lies in MLflow, and what is there: its status, how many bytes of its event file, and the digest of
    its record once all of that is."""

    uri: str
    experiment_id: str
    run_id: str
    status: str
    size: int
    record: str = ""

    @classmethod
    def load(cls, folder: Path) -> "Receipt | None":
        path = folder / RECEIPT
        return cls(**json.loads(path.read_text())) if path.exists() else None

    def save(self, folder: Path) -> None:
        replace_text(folder / RECEIPT, json.dumps(asdict(self), indent=1))


def begin(
    folder: Path,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    parent: Path | None = None,
) -> None:
    """Record that the run or sweep in `folder` begins, or goes on as the same one."""
    with held(folder) as before:
        Record(
            key=before.key if before else uuid.uuid4().hex,
            experiment=experiment,
            name=name,
            params=flatten(params),
            tags={key: str(value)[:LONGEST_TAG] for key, value in tags.items()},
            started=before.started if before else time.time(),
            artifacts=before.artifacts if before else (),
            parent=os.path.relpath(parent, folder) if parent else before.parent if before else None,
            edition=before.edition if before else 0,
        ).save(folder)


def end(folder: Path, status: Ending, artifacts: Iterable[Path] = ()) -> None:
    """Record how the run or sweep in `folder` ended, where it is tracked."""
    with held(folder) as record:
        if record is not None:
            paths = together(record, folder, artifacts)
            replace(record, status=status, ended=time.time(), artifacts=paths).save(folder)


def together(record: Record, folder: Path, artifacts: Iterable[Path]) -> tuple[str, ...]:
    """The artifacts of the record and these, each once."""
    return tuple(dict.fromkeys([*record.artifacts, *(os.path.relpath(path, folder) for path in artifacts)]))


@contextmanager
def held(folder: Path) -> Iterator[Record | None]:
    """The record of this folder, None where it is not tracked; nobody else changes it meanwhile."""
    if not folder.is_dir():
        yield None
        return
    with FileLock(folder / "tracking.lock"):
        yield Record.load(folder)


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """`{"noise": {"rate": 0.2}}` to `{"noise.rate": "0.2"}`, values cut at what MLflow takes."""
    flat: dict[str, str] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)[:LONGEST_PARAM]
    return flat
