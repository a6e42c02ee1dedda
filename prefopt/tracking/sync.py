"""Sending to MLflow what it does not have yet of finished, killed or copied runs and sweeps."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from prefopt.errors import PrefoptError
from prefopt.tracking.channel import Troubles
from prefopt.tracking.record import RECORD


def sync(folders: Sequence[Path], home: Path, uri: str) -> None:
    """`deliver`, all runs and sweeps of the home by default, with a line for each.

    Raises PrefoptError where something of it does not arrive.
    """
    from prefopt.tracking.sender import delivered

    found = folders or sorted(path.parent for pattern in ("*", "sweeps/*") for path in home.glob(f"{pattern}/{RECORD}"))
    troubles = 0
    for folder in (path.absolute() for path in found):
        if delivered(folder, uri):
            print(f"{folder}: nothing to send")
        elif not (folder / RECORD).exists():
            print(f"{folder}: holds no tracked run")
            troubles += 1
        else:
            trouble = deliver([folder], home, uri)[folder]
            print(f"{folder}: {trouble or 'sent'}")
            troubles += trouble is not None
    if troubles:
        raise PrefoptError(
            f"{troubles} of {len(found)} runs could not be sent to {uri}",
            "see the lines above; the same command goes on with what is missing",
        )


def deliver(folders: Iterable[Path], home: Path, uri: str) -> Troubles:
    """Send what is missing of these runs and sweeps, in this process; runs that go on stay RUNNING there."""
    from prefopt.tracking.sender import Run

    troubles: Troubles = {}
    for folder in folders:
        run = Run(folder.absolute(), home.absolute(), uri)
        troubles[folder] = run.send()
        run.release()
    return troubles
