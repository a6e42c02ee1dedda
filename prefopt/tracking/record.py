"""What MLflow shall know of a run besides its metrics, as two small files in the run's directory.

`tracking.json` is written by the run, `mlflow.json` by whoever sends it; with the event file the first is all that is
needed to send a run, now or later, here or after a copy to another machine.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from prefopt.files import replace_text

RECORD, RECEIPT = "tracking.json", "mlflow.json"
LONGEST_PARAM, LONGEST_TAG = 6000, 8000

Ending = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class Record:
    """key: ours, chosen before MLflow is asked for anything. started, ended: seconds since 1970.

    artifacts: paths relative to the run's directory where they lie in it.
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

    @classmethod
    def load(cls, folder: Path) -> "Record | None":
        path = folder / RECORD
        return cls(**json.loads(path.read_text())) if path.exists() else None

    def save(self, folder: Path) -> None:
        replace_text(folder / RECORD, json.dumps(asdict(self), indent=1))


@dataclass(frozen=True)
class Receipt:
    """Where a run lies in MLflow, with which status, and how many bytes of its event file are there."""

    uri: str
    experiment_id: str
    run_id: str
    status: str
    size: int

    @classmethod
    def load(cls, folder: Path) -> "Receipt | None":
        path = folder / RECEIPT
        return cls(**json.loads(path.read_text())) if path.exists() else None

    def save(self, folder: Path) -> None:
        replace_text(folder / RECEIPT, json.dumps(asdict(self), indent=1))


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """`{"noise": {"rate": 0.2}}` to `{"noise.rate": "0.2"}`, values cut at what MLflow takes."""
    flat: dict[str, str] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)[:LONGEST_PARAM]
    return flat
