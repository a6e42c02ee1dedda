"""MLflow's interface over the local store, for this machine only: `python -m prefopt.tracking.ui`."""

import argparse
import os
import socket
import sys

from prefopt.errors import PrefoptError, reports_errors
from prefopt.tracking.mlflow import store_uri
from prefopt.tracking.telemetry import silence

HOST = "127.0.0.1"


@reports_errors
def main() -> None:
    silence()
    from prefopt.store import home
    from prefopt.tracking.sender import create_store

    parser = argparse.ArgumentParser(prog="python -m prefopt.tracking.ui", description=__doc__)
    parser.add_argument("--port", type=int, default=5000, help="(default: %(default)s)")
    port = parser.parse_args().port
    check_free(port)
    uri = store_uri(home())
    create_store(uri)
    print(f"MLflow over {home()} opens at http://{HOST}:{port} in a few seconds; Ctrl-C ends it", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", uri, "--artifacts-destination", (home() / "mlartifacts").as_uri()]
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # eight processes that serve no run of ours
    os.execv(sys.executable, command)


def check_free(port: int) -> None:
    """Raise PrefoptError where something listens on the port already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise PrefoptError(
                f"port {port} of {HOST} cannot be opened: {error}",
                f"if it is MLflow, open http://{HOST}:{port}; if not, choose another port: --port {port + 1}",
            ) from None


if __name__ == "__main__":
    main()
