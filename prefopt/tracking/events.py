"""The event file: what a run measured, step by step. It is the truth; MLflow is a view of it."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from prefopt.errors import PrefoptError
from prefopt.files import replace_file

EVENTS = "metrics.jsonl"
VISIBLE_S = 1.0


class Event(NamedTuple):
    """Metrics of one optimiser step; time in seconds since 1970, end the offset in bytes of the next event."""

    step: int
    time: float
    metrics: dict[str, float]
    end: int


class EventFile:
    """Append-only JSON lines, one a step, steps never falling, each metric at most once a step.

    Others see a line about a second after it was written; only `flush` makes it survive a crash, so flush before a
    checkpoint. What a crash left of a last line is cut off when the file is opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab")
        self._file.truncate(max((event.end for event in read(path)), default=0))
        self._visible = time.time()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        now = time.time()
        event = {"step": step, "time": now, "metrics": {name: float(value) for name, value in metrics.items()}}
        self._put(lambda: self._file.write(json.dumps(event).encode() + b"\n"))
        if now - self._visible > VISIBLE_S:
            self._put(self._file.flush)
            self._visible = now

    def flush(self) -> None:
        """What was written is on the disk when this returns."""
        self._put(self._file.flush)
        self._put(lambda: os.fsync(self._file.fileno()))

    def rewind(self, step: int) -> None:
        """Forget what lies after `step`, the one that training resumes from (-1: all of it).

        The shorter file is another file, put in the place of the first, so that who reads along can tell.
        """
        self.flush()
        end = max((event.end for event in takewhile(lambda event: event.step <= step, read(self.path))), default=0)
        if end == self.path.stat().st_size:
            return
        kept = self.path.read_bytes()[:end]
        self._file.close()
        self._put(lambda: replace_file(self.path, lambda file: file.write(kept)))
        self._file = self.path.open("ab")

    def close(self) -> None:
        self.flush()
        self._file.close()

    def _put(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            raise PrefoptError(
                f"{self.path}: {error.strerror}", "make room or mend the disk, then start the same command again"
            ) from error


def read(path: Path, start: int = 0) -> Iterator[Event]:
    """The events from the offset `start` on; a last line that is not whole yet is left out.

    Raises PrefoptError at a line that is no event.
    """
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                entry = json.loads(line)
                event = Event(entry["step"], entry["time"], entry["metrics"], start + len(line))
            except (ValueError, KeyError, TypeError) as error:
                raise PrefoptError(
                    f"{path}: the line at byte {start} is no event: {line[:60]!r}",
                    "delete this line if the rest is good, or the run's directory to train anew",
                ) from error
            start = event.end
            yield event
