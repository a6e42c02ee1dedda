"""A sweep from its plan to its end: checked, shown, sent, and watched."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from launchers.jobs import batches, missing, send
from launchers.options import Options
from launchers.plan import Sweep, planned
from launchers.preflight import preflight
from launchers.show import show_end, show_plan, show_sent
from launchers.states import known_states
from launchers.tracked import begin, collect, followed, tracked
from launchers.watch import watch
from prefopt import stop
from prefopt.errors import PrefoptError, reports_errors
from prefopt.manifest import Manifest
from prefopt.store import Taken, held


@reports_errors
def launch(hydra: DictConfig, cells: Sequence[Sequence[str]]) -> None:
    """Plan a sweep of these cells, each given by its overrides, and send it. hydra: Hydra's own node.

    Exits with 1 where it was waited for and a cell has failed.
    """
    sweep = Sweep.of(hydra, cells)
    given: Any = OmegaConf.to_container(hydra.launcher, resolve=True)
    options = Options.of(given)
    with _alone(sweep.folder):
        failed = carried_out(planned(sweep, options), options)
    if failed:
        raise SystemExit(1)


def sent_again(manifest: Manifest, changes: Mapping[str, Any]) -> bool:
    """Send what is missing or failed of a sweep, with some of the launcher's options changed; whether a cell failed."""
    unknown = set(changes) - set(manifest.launcher)
    if unknown:
        raise PrefoptError(
            f"{min(unknown)} is no option of this sweep's launcher", f"choose among {', '.join(manifest.launcher)}"
        )
    with _alone(manifest.folder):
        manifest = Manifest.read(manifest.folder)
        manifest = replace(manifest, launcher={**manifest.launcher, **changes})
        options = Options.of(manifest.launcher)
        manifest.write()
        return carried_out(manifest, options)


def shown(manifest: Manifest) -> None:
    """Show what would be sent."""
    options = replace(Options.of(manifest.launcher), submit=False)
    found = known_states(manifest)
    show_plan(manifest, found, batches(manifest, found, missing(manifest, found), options), options)


def carried_out(manifest: Manifest, options: Options) -> bool:
    """Send what the sweep still needs, and wait if that was asked for; whether a cell failed."""
    found = known_states(manifest)
    todo = batches(manifest, found, missing(manifest, found), options)
    show_plan(manifest, found, todo, options)
    if not options.submit:
        return False
    if all(found[cell.run].state == "done" for cell in manifest.cells):
        if not tracked(manifest):
            collect(manifest)
        show_end(manifest, found)
        return False
    if todo:
        preflight(manifest, options, todo[-1])
    begin(manifest)
    with stop.heeded():
        (manifest.folder / "stopped").unlink(missing_ok=True)
        manifest = send(manifest, todo, found, options)
        if not options.wait:
            show_sent(manifest, todo)
            return False
        with followed(manifest):
            ended = watch(manifest, options)
    show_end(manifest, ended)
    return any(ended[cell.run].state != "done" for cell in manifest.cells)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else sends this sweep meanwhile.

    Raises PrefoptError where somebody does.
    """

    def taken() -> None:
        raise Taken(
            f"{folder} is in use: another process plans, sends or watches this sweep",
            f"let it, or end it; `python -m prefopt.sweep status {folder}` shows how the sweep goes",
        )

    with held(folder / "lock", taken):
        yield
