"""Send to MLflow what it does not have yet of finished, killed or copied runs: `python -m prefopt.tracking.sync`."""

import argparse
import os
from pathlib import Path

from prefopt.errors import PrefoptError, reports_errors
from prefopt.tracking.events import EVENTS
from prefopt.tracking.mlflow import store_uri
from prefopt.tracking.record import RECORD, Receipt, Record
from prefopt.tracking.telemetry import silence


@reports_errors
def main() -> None:
    silence()
    from prefopt.store import home
    from prefopt.tracking.sender import Run

    parser = argparse.ArgumentParser(prog="python -m prefopt.tracking.sync", description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="directories of runs (default: all of the home)")
    parser.add_argument(
        "--uri",
        default=os.environ.get("MLFLOW_TRACKING_URI") or store_uri(home()),
        help="store or server (default: MLFLOW_TRACKING_URI, or the home's own store)",
    )
    arguments = parser.parse_args()
    folders = arguments.runs or sorted(path.parent for path in home().glob(f"*/{RECORD}"))
    troubles = []
    for folder in (path.absolute() for path in folders):
        if delivered(folder, arguments.uri):
            print(f"{folder}: nothing to send")
            continue
        run = Run(folder, home(), arguments.uri)
        trouble = run.send()
        run.release()
        print(f"{folder}: {trouble or 'sent'}")
        troubles += [trouble] if trouble else []
    if troubles:
        raise PrefoptError(
            f"{len(troubles)} of {len(folders)} runs could not be sent to {arguments.uri}",
            "see the lines above; the same command goes on with what is missing",
        )


def delivered(folder: Path, uri: str) -> bool:
    """Whether the store at `uri` has all of this run, as far as the run's directory tells."""
    record, receipt, events = Record.load(folder), Receipt.load(folder), folder / EVENTS
    if record is None or receipt is None:
        return False
    size = events.stat().st_size if events.exists() else 0
    return (receipt.uri, receipt.status, receipt.size) == (uri, record.status, size)


if __name__ == "__main__":
    main()
