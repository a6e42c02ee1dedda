"""What a sweep consists of, found out before anything is sent."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf, open_dict

from launchers.options import Options
from prefopt import store
from prefopt.check import check
from prefopt.config import check_choices, named, needed
from prefopt.errors import PrefoptError
from prefopt.manifest import MANIFEST, Cell, Manifest
from prefopt.progress import say, track
from prefopt.run import Parts


@dataclass(frozen=True)
class Sweep:
    """What Hydra was given: the overrides of each cell, those of the command, those of Hydra's own node, and the
    launcher's node, unresolved."""

    folder: Path
    cells: Sequence[Sequence[str]]
    command: Sequence[str]
    hydra_overrides: Sequence[str]
    launcher: Mapping[str, Any]


def planned(sweep: Sweep, options: Options) -> Manifest:
    """The sweep's manifest, written to its folder.

    Raises PrefoptError where a cell cannot work, where two cells are one run, or where the folder holds another sweep.
    """
    constant = set.intersection(*(set(overrides) for overrides in sweep.cells)) if len(sweep.cells) > 1 else set()
    cells: dict[str, Cell] = {}
    stages: dict[str, Cell] = {}
    for index, overrides in enumerate(track(sweep.cells, "planning", len(sweep.cells))):
        swept = tuple(override for override in overrides if override not in constant)
        try:
            config = configured(sweep, overrides)
            (name, config), *needs = runs(config)
        except PrefoptError as error:
            raise PrefoptError(f"cell {index} ({' '.join(swept)}): {error.what}", error.mend) from error
        if name in cells:
            raise PrefoptError(
                f"cells {cells[name].index} ({' '.join(cells[name].overrides)}) and {index} ({' '.join(swept)}) "
                f"are one run, {name}",
                "sweep over what changes the outcome of a run, and over each value once",
            )
        cells[name] = Cell(index, name, swept, contained(config, options))
        stages |= {need: Cell(None, need, (), contained(config, options)) for need, config in needs}
    manifest = Manifest(
        folder=sweep.folder,
        command=tuple(sweep.command),
        launcher=options.given,
        home=store.home(),
        stages=tuple(stage for name, stage in reversed(stages.items()) if name not in cells),
        cells=tuple(cells.values()),
    )
    return _written(manifest)


def configured(sweep: Sweep, overrides: Sequence[str]) -> DictConfig:
    """The configuration of a cell.

    Raises PrefoptError where it asks for another launcher than the sweep has: Hydra would pass over that in silence.
    """
    check_choices(overrides)
    config = compose("config", overrides=[*sweep.hydra_overrides, *overrides], return_hydra_config=True)
    if OmegaConf.to_container(config.hydra.launcher, resolve=False) != sweep.launcher:
        raise PrefoptError(
            f"its configuration sets hydra/launcher, to {config.hydra.runtime.choices['hydra/launcher']}; a swept "
            "configuration cannot choose how the sweep is sent",
            "take the launcher out of that file, and give hydra/launcher=... on the command line",
        )
    return named(config)


def runs(config: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """The name and configuration of the run of this configuration, then of those that it needs, the first needed last.

    Raises PrefoptError where the configuration cannot work.
    """
    parts = Parts(config)
    check(config, parts.method, parts.model, parts.dataset)
    yield store.run(config.choices.method, config.choices.dataset, parts.fingerprint()).name, config
    for role, need in config.method.needs.items():
        if isinstance(need, DictConfig) and role in parts.method.roles:
            yield from runs(needed(config, need))


def contained(config: DictConfig, options: Options) -> dict[str, Any]:
    """The configuration as the jobs get it, unresolved. A store that is a file is written by whoever waits or
    collects, never by many nodes at once."""
    with open_dict(config):
        if "send" in config.tracking and not str(config.tracking.uri or "").startswith("http"):
            config.tracking.send = False
    container = OmegaConf.to_container(config, resolve=False)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _written(manifest: Manifest) -> Manifest:
    """Where the folder has this sweep already, or part of it, its jobs are kept."""
    try:
        before = Manifest.read(manifest.folder) if (manifest.folder / MANIFEST).exists() else None
    except PrefoptError as error:
        say(f"{error.what}; it is written anew", "yellow")
        before = None
    if before is not None:
        dropped = {cell.run for cell in before.cells} - {cell.run for cell in manifest.cells}
        if dropped:
            raise PrefoptError(
                f"{manifest.folder} holds another sweep: of its {len(before.cells)} cells this one lacks "
                f"{len(dropped)}, such as {min(dropped)}",
                "give this one a folder of its own (hydra.sweep.dir=...), or delete that one: its runs are kept",
            )
        manifest = Manifest(**{**vars(manifest), "jobs": before.jobs})
    manifest.folder.mkdir(parents=True, exist_ok=True)
    manifest.write()
    return manifest
