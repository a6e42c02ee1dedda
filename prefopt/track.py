"""What is tracked, after the runs: `python -m prefopt.track sync` and `python -m prefopt.track ui`."""

import argparse
import os
from pathlib import Path

from prefopt.errors import reports_errors
from prefopt.tracking.telemetry import silence


@reports_errors
def main() -> None:
    silence()
    from prefopt.store import home
    from prefopt.tracking.database import store_uri
    from prefopt.tracking.sync import sync
    from prefopt.tracking.ui import ui

    parser = argparse.ArgumentParser(prog="python -m prefopt.track")
    commands = parser.add_subparsers(dest="command", required=True)
    sending = commands.add_parser("sync", help="send to MLflow what it does not have yet of runs and sweeps")
    sending.add_argument("runs", nargs="*", type=Path, help="their directories (default: all of the home)")
    sending.add_argument(
        "--uri",
        default=os.environ.get("MLFLOW_TRACKING_URI") or store_uri(home()),
        help="store or server (default: MLFLOW_TRACKING_URI, or the home's own store)",
    )
    showing = commands.add_parser("ui", help="MLflow's interface over the home's store, on this machine only")
    showing.add_argument("--port", type=int, default=5000, help="(default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.command == "sync":
        sync(arguments.runs, home(), arguments.uri)
    else:
        ui(home(), arguments.port)


if __name__ == "__main__":
    main()
