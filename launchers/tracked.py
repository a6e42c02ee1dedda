"""A sweep in MLflow: the parent of its cells, and whatever of them only the launcher's machine sends."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from prefopt.errors import Interrupted
from prefopt.manifest import Manifest
from prefopt.progress import say
from prefopt.tracking import sweep
from prefopt.tracking.channel import Troubles
from prefopt.tracking.database import store_uri
from prefopt.tracking.following import Following
from prefopt.tracking.mlflow import HURRIED_S
from prefopt.tracking.record import RECORD
from prefopt.tracking.sync import deliver


def begin(manifest: Manifest) -> None:
    """Record the sweep, and make it the parent of those of its cells that ran before it and have none."""
    tracking = settings(manifest)
    if tracking is None:
        return
    params = {"command": " ".join(manifest.command), "cells": len(manifest.cells), "launcher": manifest.launcher}
    sweep.begin(manifest.folder, manifest.name, params, {"sweep": manifest.name}, tracking.experiment)
    for run in manifest.runs():
        sweep.adopt(run.folder, manifest.folder)


def tracked(manifest: Manifest) -> bool:
    """Whether the sweep was recorded before, or is not to be."""
    return settings(manifest) is None or (manifest.folder / RECORD).exists()


@contextmanager
def followed(manifest: Manifest) -> Iterator[None]:
    """Meanwhile the runs are sent as they go, and what is left of them at the end."""
    tracking = settings(manifest)
    if tracking is None:
        yield
        return
    following = Following(manifest.home, tracking.uri, tracking.every_s)
    following.add(*folders(manifest, tracking))
    try:
        yield
    except Interrupted:
        if manifest.launcher["cluster"] == "local":
            sweep.end(manifest.folder, "KILLED")
            _report(following.finish(folders(manifest, tracking), HURRIED_S), manifest)
        raise
    end(manifest)
    _report(following.finish(folders(manifest, tracking), tracking.patience_s), manifest)


def collect(manifest: Manifest) -> Troubles:
    """Send what MLflow does not have yet of the sweep and its runs; what went wrong, by folder."""
    tracking = settings(manifest)
    if tracking is None:
        return {}
    begin(manifest)
    end(manifest)
    troubles = deliver(folders(manifest, tracking), manifest.home, tracking.uri or store_uri(manifest.home))
    _report(troubles, manifest)
    return troubles


def end(manifest: Manifest) -> None:
    """Record how the sweep ended, where it did: with every cell, or because one failed and none shall follow."""
    ended = {run.status()["state"] for run in manifest.runs()}
    if ended <= {"done", "failed"} or (manifest.stopped() and "failed" in ended):
        sweep.end(manifest.folder, "FAILED" if "failed" in ended else "FINISHED")


def settings(manifest: Manifest) -> Any:
    """The tracker's node of the cells; None where they are not tracked."""
    tracking = OmegaConf.create(dict(manifest.cells[0].config)).tracking
    return tracking if "send" in tracking else None


def folders(manifest: Manifest, tracking: Any) -> list[Path]:
    """The sweep, and those of its runs that do not send themselves."""
    runs = () if tracking.send else (*manifest.stages, *manifest.cells)
    return [manifest.folder, *(manifest.stored(run.run).folder for run in runs)]


def _report(troubles: Troubles, manifest: Manifest) -> None:
    first = next((trouble for trouble in troubles.values() if trouble is not None), None)
    if first is not None:
        say(
            f"MLflow does not have all of this sweep: {first}\n  nothing is lost; send it later: "
            f"python -m prefopt.sweep collect {manifest.folder}",
            "yellow",
        )
