"""`python -m prefopt.sweep status DIR`: a sweep that was sent before: what is left, how it goes, going on, ending it.

DIR is the folder of a sweep, or its name under <home>/sweeps.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefopt.errors import PrefoptError, reports_errors
from prefopt.manifest import Manifest
from prefopt.store import home
from prefopt.tracking.telemetry import silence

COMMANDS = {
    "plan": "the cells, what is done, what is shared, the jobs that are still needed; sends nothing",
    "status": "how far each cell is, and the traceback of each that failed",
    "resume": "send what is missing or failed; KEY=VALUE changes an option of the launcher",
    "cancel": "stop: what runs saves a checkpoint, what is queued never begins",
    "collect": "send to MLflow what it does not have yet",
}


@reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 where a cell has failed, or where not all could be collected."""
    silence()
    parser = argparse.ArgumentParser(
        prog="python -m prefopt.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, says in COMMANDS.items():
        parsed = commands.add_parser(name, help=says, description=says)
        parsed.add_argument("sweep", metavar="DIR")
        if name == "resume":
            parsed.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    given = parser.parse_args(arguments)
    manifest = Manifest.read(folder(given.sweep))
    command = {"plan": plan, "status": status, "resume": resume, "cancel": cancel, "collect": collect}[given.command]
    return command(manifest, changes(getattr(given, "changes", [])))


def folder(name: str) -> Path:
    """The folder of a sweep, by path or by name."""
    return Path(name) if Path(name).exists() else home() / "sweeps" / name


def changes(given: Sequence[str]) -> dict[str, Any]:
    """`partition=high` and the like; values as YAML."""
    import yaml

    found = {}
    for change in given:
        key, equals, value = change.removeprefix("hydra.launcher.").partition("=")
        if not equals:
            raise PrefoptError(f"{change} is not KEY=VALUE", "such as partition=high, or timeout_min=600")
        found[key] = yaml.safe_load(value)
    return found


def plan(manifest: Manifest, _: Mapping[str, Any]) -> int:
    from launchers.send import shown

    shown(manifest)
    return 0


def resume(manifest: Manifest, changed: Mapping[str, Any]) -> int:
    from launchers.send import sent_again

    return int(sent_again(manifest, {"submit": True, **changed}))


def status(manifest: Manifest, _: Mapping[str, Any]) -> int:
    from launchers.show import show_status
    from launchers.states import known_states

    found = known_states(manifest)
    show_status(manifest, found)
    return int(any(state.state == "failed" for state in found.values()))


def cancel(manifest: Manifest, _: Mapping[str, Any]) -> int:
    from launchers.cancel import cancel

    print(f"{cancel(manifest)} jobs told to stop; go on: python -m prefopt.sweep resume {manifest.folder}")
    return 0


def collect(manifest: Manifest, _: Mapping[str, Any]) -> int:
    from launchers.tracked import collect

    return int(any(trouble is not None for trouble in collect(manifest).values()))


if __name__ == "__main__":
    sys.exit(main())
