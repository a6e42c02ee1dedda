"""A sweep on disk: `manifest.jsonl` says what it consists of and which jobs were sent for it.

    <home>/sweeps/<name>/manifest.jsonl   line 1: the sweep; then its stages and cells; then a line for each job sent

The first part is written whole before anything is sent; jobs are appended. How far a cell has come is not said here
but by its run.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from prefopt import store
from prefopt.errors import PrefoptError
from prefopt.files import replace_text

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class Cell:
    """One run of the sweep. index: its place among the cells; None for a stage, a run that cells need.

    run: the name of its folder in the home. overrides: what was swept. config: the composed config, unresolved.
    """

    index: int | None
    run: str
    overrides: tuple[str, ...]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """One job sent: its id on the cluster, slurm or local (a process id), its runs, and when, in seconds since 1970."""

    id: str
    cluster: str
    runs: tuple[str, ...]
    time: float


@dataclass(frozen=True)
class Manifest:
    """command: the overrides that the sweep was sent with. launcher: its options."""

    folder: Path
    command: tuple[str, ...]
    launcher: Mapping[str, Any]
    home: Path
    stages: tuple[Cell, ...]
    cells: tuple[Cell, ...]
    jobs: tuple[Job, ...] = ()

    @property
    def name(self) -> str:
        return self.folder.name

    def runs(self) -> list[store.Run]:
        """The run of each cell."""
        return [self.stored(cell.run) for cell in self.cells]

    def stored(self, run: str) -> store.Run:
        return store.Run(self.home / run)

    def entry(self, run: str) -> Cell:
        """The stage or cell of this name."""
        return next(cell for cell in (*self.stages, *self.cells) if cell.run == run)

    def stopped(self) -> bool:
        """Whether no further cell of this sweep shall begin."""
        return (self.folder / "stopped").exists()

    def write(self) -> None:
        """Put the manifest in the place of what is there, whole."""
        head = {
            "sweep": self.name,
            "format": store.FORMAT,
            "command": self.command,
            "launcher": dict(self.launcher),
            "home": str(self.home),
            "stages": len(self.stages),
            "cells": len(self.cells),
        }
        lines: list[Any] = [head]
        lines += [asdict(entry) for entry in (*self.stages, *self.cells)] + [asdict(job) for job in self.jobs]
        replace_text(self.folder / MANIFEST, "".join(json.dumps(line) + "\n" for line in lines))

    def sent(self, jobs: Sequence[Job]) -> Self:
        """The manifest with these jobs, too; they are appended to the file.

        Raises PrefoptError where the disk does not take them.
        """
        path = self.folder / MANIFEST
        try:
            with path.open("r+b") as file:
                file.seek(len(_whole_lines(path)))
                file.truncate()
                file.write("".join(json.dumps(asdict(job)) + "\n" for job in jobs).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise PrefoptError(
                f"{path}: {error.strerror}; jobs {', '.join(job.id for job in jobs)} were sent and are not in it",
                "make room; a cell that is taken is never run twice, so the same command may simply be sent again",
            ) from error
        return type(self)(**{**vars(self), "jobs": (*self.jobs, *jobs)})

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The sweep in this folder. A last line that is not whole, of a job, is left out.

        Raises PrefoptError where there is none, or where stages or cells are missing.
        """
        path = folder / MANIFEST
        if not path.exists():
            raise PrefoptError(f"{folder} holds no sweep: there is no {MANIFEST} in it", known_sweeps())
        again = "send the same sweep again: cells that are done are kept, and the manifest is written anew"
        lines = []
        for number, line in enumerate(_whole_lines(path).splitlines(), start=1):
            try:
                lines.append(json.loads(line))
            except ValueError as error:
                raise PrefoptError(f"{path}, line {number} is damaged: {line[:60]!r}", again) from error
        if not lines or lines[0].get("format") != store.FORMAT:
            raise PrefoptError(f"{path} begins with no line of a sweep that this prefopt has written", again)
        head = lines[0]
        planned = head["stages"] + head["cells"]
        if len(lines) < 1 + planned:
            raise PrefoptError(f"{path} is cut after line {len(lines)} of {1 + planned}", again)
        entries = [Cell(**{**line, "overrides": tuple(line["overrides"])}) for line in lines[1 : 1 + planned]]
        return cls(
            folder=folder.absolute(),
            command=tuple(head["command"]),
            launcher=head["launcher"],
            home=Path(head["home"]),
            stages=tuple(entries[: head["stages"]]),
            cells=tuple(entries[head["stages"] :]),
            jobs=tuple(Job(**{**line, "runs": tuple(line["runs"])}) for line in lines[1 + planned :]),
        )


def _whole_lines(path: Path) -> bytes:
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def known_sweeps() -> str:
    """A mend: which sweeps there are."""
    names = sorted(path.parent.name for path in (store.home() / "sweeps").glob(f"*/{MANIFEST}"))
    return f"choose one of {', '.join(names)} in {store.home() / 'sweeps'}" if names else "send one first"
