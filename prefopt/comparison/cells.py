"""The cells of a comparison: which runs a question is about, done or not, and what each of them is."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from prefopt import store
from prefopt.errors import PrefoptError

SWEEPS = "sweeps"
BY_PATH = ("hydra.utils.get_class", "hydra.utils.get_method")


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    state: that of its status file, `missing` where nobody has begun it. config: resolved, with `choices`.
    figures, data, environment: of a run that is done; else empty.
    """

    folder: Path
    state: str
    config: Mapping[str, Any]
    error: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    data: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def run(self) -> str:
        return self.folder.name

    @property
    def done(self) -> bool:
        return self.state == "done"

    @property
    def method(self) -> str:
        return str(self.config["choices"]["method"])

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def rate(self) -> float:
        return float(self.config["noise"]["rate"])

    @cached_property
    def flat(self) -> dict[str, Any]:
        """The config by dotted key; lists and empty mappings as JSON text."""
        return dict(_leaves(self.config))


@dataclass(frozen=True)
class Question:
    """Which runs are compared.

    sweep: the folder of one, None for all runs of the home. experiment: of MLflow, None for any.
    wanted: the values a cell may have, by key. allowed: keys whose differences may be averaged over.
    """

    sweep: Path | None
    experiment: str | None
    wanted: Mapping[str, tuple[Any, ...]]
    allowed: tuple[str, ...] = ()

    @classmethod
    def read(cls, words: Sequence[str], allowed: Sequence[str]) -> "Question":
        """`sweep=NAME`, `experiment=NAME` and `KEY=VALUE,VALUE`, in any number and order.

        Raises PrefoptError where a word is none of these, or the sweep is not there or not the only one.
        """
        given: dict[str, str] = {}
        for word in words:
            key, equals, value = word.partition("=")
            if not equals or not key or not value or key in given:
                raise PrefoptError(
                    f"{word!r} is not a question" if key not in given else f"{key} is given twice",
                    "give sweep=NAME, experiment=NAME, or KEY=VALUE[,VALUE...] once a key, as noise.rate=0,0.2",
                )
            given[key] = value
        sweep, experiment = given.pop("sweep", None), given.pop("experiment", None)
        wanted = {key: tuple(_value(text) for text in value.split(",")) for key, value in given.items()}
        return cls(found_sweep(sweep) if sweep else None, experiment, wanted, tuple(allowed))

    @property
    def title(self) -> str:
        """What it asks, as it was asked."""
        words = [self.sweep.name] if self.sweep else []
        words += [self.experiment] if self.experiment else []
        return " ".join([*words, *(f"{key}={','.join(map(_text, values))}" for key, values in self.wanted.items())])

    @property
    def name(self) -> str:
        """The title, fit for a folder's name."""
        return re.sub(r"[^\w.,=-]+", "_", self.title)[:120]

    @property
    def told_apart(self) -> set[str]:
        """The keys that it gives several values."""
        return {key for key, values in self.wanted.items() if len(values) > 1}

    @property
    def whole(self) -> Path | None:
        """The sweep that it is about, where it is about all of one."""
        return self.sweep if not self.wanted and self.experiment is None else None

    @property
    def folder(self) -> Path:
        """Where its answer is written."""
        return self.whole / "comparison" if self.whole else store.home() / "comparisons" / self.name


def found_sweep(name: str) -> Path:
    """The folder of the sweep of this name, or of the only one whose name begins so."""
    sweeps = sorted(path.parent for path in (store.home() / SWEEPS).glob("*/manifest.jsonl"))
    matching = [path for path in sweeps if path.name == name] or [path for path in sweeps if path.name.startswith(name)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise PrefoptError(f"sweep={name} may be any of {_listed(matching)}", "give more of its name")
    raise PrefoptError(
        f"sweep={name}: no sweep of that name in {store.home() / SWEEPS}",
        f"choose one of {_listed(sweeps)}" if sweeps else "send one, or compare by filter, as in method=dpo,rdpo",
    )


def collected(question: Question) -> tuple[list[Cell], set[str], list[str]]:
    """The cells that a question asks for; the keys that a sweep gave several values; and notes on what was left out.

    Raises PrefoptError where there are none, or a key is none of theirs.
    """
    notes: list[str] = []
    swept: set[str] = set()
    if question.sweep is None:
        cells = list(_of_home())
    else:
        cells, swept = _of_sweep(question.sweep)
    if question.experiment is not None:
        names = sorted({str(cell.flat.get("tracking.experiment")) for cell in cells})
        cells = [cell for cell in cells if cell.flat.get("tracking.experiment") == question.experiment]
        if not cells:
            raise PrefoptError(
                f"experiment={question.experiment}: no run in {store.home()} belongs to it",
                f"choose one of {', '.join(names)}" if names else "train something first",
            )
    for key, values in question.wanted.items():
        held = {cell.run: valued(cell, key) for cell in cells}
        dotted = key.replace("/", ".")
        if cells and all(value is None for value in held.values()) and not any(dotted in cell.flat for cell in cells):
            known = {*cells[0].config["choices"], *(name for cell in cells for name in cell.flat)}
            near = difflib.get_close_matches(key, known, n=3)
            raise PrefoptError(
                f"{key}={','.join(map(_text, values))}: no run has the key {key}",
                f"did you mean {' or '.join(near)}?" if near else "give a key of the resolved config, as noise.rate",
            )
        notes += [f"No run has {key}={_text(value)}." for value in values if value not in held.values()]
        cells = [cell for cell in cells if held[cell.run] in values]
    if question.sweep is None and "method" not in question.wanted:
        stages = {
            need["method"]
            for cell in cells
            for need in (cell.config["method"].get("needs") or {}).values()
            if isinstance(need, Mapping) and "method" in need
        }
        if stages:
            cells = [cell for cell in cells if cell.method not in stages]
            notes.append(f"Runs that others are built on are left out: {', '.join(sorted(stages))}.")
    if not cells:
        raise PrefoptError(
            f"no run in {store.home()} answers {question.title}",
            "compare less narrowly, or train what is asked for",
        )
    return sorted(cells, key=lambda cell: cell.run), swept, notes


def valued(cell: Cell, key: str) -> Any:
    """The value of a key in a cell's config: the name that was chosen where the key is a config group.

    None where the cell has no such key.
    """
    choices = cell.config["choices"]
    if key in choices:
        return choices[key]
    node: Any = cell.config
    for part in key.replace("/", ".").split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    if isinstance(node, Mapping) and "_target_" in node:
        target = node["path"] if node["_target_"] in BY_PATH else node["_target_"]
        module, _, name = target.rpartition(".")
        return module.rpartition(".")[-1] if module.startswith("prefopt.") and name[0].isupper() else name
    return json.dumps(node, sort_keys=True) if isinstance(node, Mapping | list) else node


def _of_home() -> Iterator[Cell]:
    for path in sorted(store.home().glob("*/config.yaml")):
        yield _cell(path.parent)


def _of_sweep(folder: Path) -> tuple[list[Cell], set[str]]:
    from prefopt.manifest import Manifest

    manifest = Manifest.read(folder)
    overrides = [
        {key.lstrip("+~"): value for key, _, value in (override.partition("=") for override in cell.overrides)}
        for cell in manifest.cells
    ]
    swept = {key for each in overrides for key in each if len({other.get(key) for other in overrides}) > 1}
    cells = []
    for entry in manifest.cells:
        path = manifest.stored(entry.run).folder
        begun = (path / "config.yaml").exists()
        cells.append(_cell(path) if begun else Cell(path, "missing", _resolved(entry.config)))
    return cells, swept


def _cell(folder: Path) -> Cell:
    """The run in `folder`, which was begun at least."""
    try:
        status = store.Run(folder).status()
        if status["state"] == "done":
            found = json.loads((folder / "results.json").read_text())
            return Cell(folder, "done", found["config"], "", found["figures"], found["data"], found["environment"])
        config = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, ValueError, KeyError, yaml.YAMLError) as error:
        raise PrefoptError(f"{folder} cannot be read: {error}", "delete this folder, and send its run again") from error
    state = "missing" if status["state"] == "new" else str(status["state"])
    return Cell(folder, state, config, str(status.get("error", "")))


def _resolved(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config that a cell will have when it begins."""
    from omegaconf import OmegaConf

    from prefopt.config import plain

    return plain(OmegaConf.create(dict(config)))


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, Mapping | list) else value


def _value(text: str) -> Any:
    with suppress(ValueError):
        return float(text)
    return yaml.safe_load(text) if text in ("null", "true", "false") else text


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths)
