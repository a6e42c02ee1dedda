"""No library that prefopt uses may call home."""

import os

SWITCHES = {
    "DO_NOT_TRACK": "true",  # the convention; MLflow reads only this spelling of it
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DISABLE_TELEMETRY": "1",  # Hugging Face libraries, and with them TRL
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
}


def silence() -> None:
    """Switch telemetry off for this process and its children. Called before anything else is imported."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
