"""What a sweep consists of, found out before anything is sent."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from launchers.options import Options
from prefopt import store
from prefopt.check import check
from prefopt.config import check_choices, named, needed, stages
from prefopt.errors import PrefoptError
from prefopt.manifest import MANIFEST, Cell, Manifest
from prefopt.progress import say, track
from prefopt.run import Parts

LAUNCHER = ("hydra/launcher=", "hydra.launcher")
HYDRAS_OWN = "basic"
"""The launcher where nothing chooses one."""


@dataclass(frozen=True)
class Sweep:
    """What Hydra was given: the overrides of each cell, those of the command, and those of Hydra's own node."""

    folder: Path
    cells: Sequence[Sequence[str]]
    command: Sequence[str]
    hydra_overrides: Sequence[str]

    @classmethod
    def of(cls, hydra: DictConfig, cells: Sequence[Sequence[str]]) -> Self:
        """Raises PrefoptError where Hydra's own settings would part the sweep, or leave it without a folder."""
        if not hydra.sweep.dir:
            raise PrefoptError("hydra.sweep.dir is empty", "name a folder, or leave it out")
        if hydra.sweeper.get("max_batch_size") is not None:
            raise PrefoptError(
                f"hydra.sweeper.max_batch_size={hydra.sweeper.max_batch_size} would part the sweep",
                "use hydra.launcher.jobs (local), or array_parallelism (SLURM)",
            )
        overrides = hydra.overrides
        return cls(Path(hydra.sweep.dir).absolute(), cells, list(overrides.task), list(overrides.hydra))


def planned(sweep: Sweep, options: Options) -> Manifest:
    """The sweep's manifest, written to its folder.

    Raises PrefoptError where a cell cannot work, where two cells are one run, or where the folder holds another sweep.
    """
    constant = set.intersection(*(set(overrides) for overrides in sweep.cells)) if len(sweep.cells) > 1 else set()
    cells: dict[str, Cell] = {}
    stages: dict[str, Cell] = {}
    known: dict[str, str] = {}
    for index, overrides in enumerate(track(sweep.cells, "planning", len(sweep.cells))):
        swept = tuple(override for override in overrides if override not in constant)
        try:
            config = configured(sweep, overrides)
            *needs, (name, config) = runs(config, known)
        except PrefoptError as error:
            raise PrefoptError(f"cell {index} ({' '.join(swept)}): {error.what}", error.mend) from error
        if name in cells:
            raise PrefoptError(
                f"cells {cells[name].index} ({' '.join(cells[name].overrides)}) and {index} ({' '.join(swept)}) "
                f"are one run, {name}",
                "sweep over what changes the outcome of a run, and over each value once",
            )
        cells[name] = Cell(index, name, swept, contained(config))
        stages |= {need: Cell(None, need, (), contained(config)) for need, config in needs}
    manifest = Manifest(
        folder=sweep.folder,
        command=tuple(sweep.command),
        launcher=options.given,
        home=store.home(),
        stages=tuple(stage for name, stage in stages.items() if name not in cells),
        cells=tuple(cells.values()),
    )
    return _written(manifest)


def configured(sweep: Sweep, overrides: Sequence[str]) -> DictConfig:
    """The configuration of a cell.

    Raises PrefoptError where a file of it chooses a launcher: Hydra would pass over that in silence.
    """
    check_choices(overrides)
    others = [override for override in sweep.hydra_overrides if not override.startswith(LAUNCHER)]
    config = compose("config", overrides=[*others, *overrides], return_hydra_config=True)
    chosen = config.hydra.runtime.choices
    if (launcher := chosen["hydra/launcher"]) != HYDRAS_OWN:
        raise PrefoptError(
            f"a file of its configuration overrides hydra/launcher, with {launcher}; Hydra would pass over that",
            "take it out of that file, and give hydra/launcher=... on the command line",
        )
    return named(config, chosen)


def runs(config: DictConfig, known: dict[str, str]) -> Iterator[tuple[str, DictConfig]]:
    """The name and configuration of each run that this configuration needs, the first needed first, then of its own.

    known: checksums of files, taken once for all cells.
    Raises PrefoptError where the configuration cannot work.
    """
    parts = Parts(config)
    check(config, parts.method, parts.model, parts.dataset)
    for role, need in stages(config).items():
        if role in parts.method.roles:
            yield from runs(needed(config, need), known)
    yield store.run(config.choices.method, config.choices.dataset, parts.fingerprint(known)).name, config


def contained(config: DictConfig) -> dict[str, Any]:
    """The configuration as the jobs get it, unresolved. A store that is a file is written by whoever waits or
    collects, never by many nodes at once."""
    if "send" in config.tracking:
        config.tracking.uri = config.tracking.uri  # of where it was planned, not of where the job finds itself
        config.tracking.send = config.tracking.send and str(config.tracking.uri or "").startswith("http")
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
