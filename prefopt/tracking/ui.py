"""MLflow's interface over the local store, for this machine only."""

import os
import socket
import sys
from pathlib import Path
from typing import NoReturn

from prefopt.errors import PrefoptError
from prefopt.tracking.database import prepare, store_uri

HOST = "127.0.0.1"


def ui(home: Path, port: int) -> NoReturn:
    """Become the interface. Raises PrefoptError where the port is taken, or the store one of another MLflow."""
    check_free(port)
    uri = store_uri(home)
    prepare(uri)
    print(f"MLflow over {home} opens at http://{HOST}:{port} in a few seconds; Ctrl-C ends it", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", uri, "--artifacts-destination", (home / "mlartifacts").as_uri()]
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
