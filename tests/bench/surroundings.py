"""What a figure depends on besides the code: versions, processor, and how busy the machine is."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "prefopt",
    "torch",
    "transformers",
    "lightning",
    "trl",
    "accelerate",
    "datasets",
    "mlflow",
    "numpy",
    "triton",
)


def surroundings() -> dict[str, Any]:
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = dict(line.split("\t: ", 1) for line in lines if "\t: " in line)
    return {
        "python": platform.python_version(),
        "versions": {package: installed(package) for package in PACKAGES},
        "cpu": processor.get("model name\t", processor.get("model name")),
        "cores": os.cpu_count(),
        "flags": sorted(processor.get("flags\t", processor.get("flags", "")).split()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "seed": 0,
    }


def half() -> bool:
    """Whether this processor multiplies in bfloat16."""
    flags = Path("/proc/cpuinfo").read_text()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def load() -> list[float]:
    """Processes that run or wait to: means over 1, 5 and 15 minutes."""
    return list(os.getloadavg())
