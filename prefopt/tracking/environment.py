"""What a run ran on, as far as it can be told cheaply."""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "torch",
    "lightning",
    "transformers",
    "tokenizers",
    "datasets",
    "peft",
    "numpy",
    "scipy",
    "hydra-core",
    "omegaconf",
    "mlflow",
    "submitit",
)


def environment() -> dict[str, Any]:
    """Versions, machine, device, SLURM job and git state; None where there is none. Imports nothing heavy."""
    return {
        "python": platform.python_version(),
        "packages": _packages(),
        "platform": platform.platform(),
        "hostname": platform.node(),
        "cpus": os.cpu_count(),
        "cuda": _cuda(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "git": _code(),
    }


@cache
def _packages() -> dict[str, str | None]:
    return {name: _version(name) for name in PACKAGES}


@cache
def _code() -> dict[str, Any]:
    """Of the checkout when this process first asked: what it runs does not change with the files."""
    return git(CHECKOUT)


def git(checkout: Path) -> dict[str, Any]:
    """Commit of `checkout`, and whether its files differ from it (untracked ones that git does not ignore count)."""
    top = _git(checkout, "rev-parse", "--show-toplevel")
    commit = _git(checkout, "rev-parse", "--verify", "--quiet", "HEAD")
    if top is None or commit is None or Path(top).resolve() != checkout.resolve():
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(_git(checkout, "status", "--porcelain"))}


def _git(checkout: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(checkout), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cuda() -> str | None:
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None
