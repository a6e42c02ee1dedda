"""The flip rate that a method believes in, where it is to be estimated from the labels that it learns from."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefopt.datasets.data import Data
from prefopt.files import replace_text
from prefopt.progress import say
from prefopt.store import cached

ESTIMATED = "estimated"
"""The value of noise.assumed that asks for it."""


def asks(node: Any) -> bool:
    """Whether a config node holds the flip rate that is to be estimated."""
    return any(asks(value) for value in node.values()) if isinstance(node, Mapping) else node == ESTIMATED


def told(node: Any, rate: float) -> Any:
    """The node with this flip rate where it asks for the estimated one."""
    if isinstance(node, Mapping):
        return {key: told(value, rate) for key, value in node.items()}
    return rate if node == ESTIMATED else node


def estimated(data: Data, key: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The estimate of the training labels' flip rate, computed once for all methods that learn from them.

    key: what tells these labels from others. Where the estimate is not sound the rate is the lower end of its interval:
    a method that assumes too little loses less than one that assumes too much.
    """
    from prefopt.audit.estimate import flip_rate

    def compute(folder: Path) -> None:
        replace_text(folder / "estimate.json", json.dumps(asdict(flip_rate(data, seed=seed)), indent=2))

    folder = cached("flip-rate", {**key, "seed": seed}, compute)
    found: dict[str, Any] = json.loads((folder / "estimate.json").read_text())
    if not found["sound"]:
        found["rate"] = found["low"]
    said = f"the labels' flip rate is estimated to be {found['rate']:.3f} ({found['low']:.3f} .. {found['high']:.3f})"
    say(said if found["sound"] else f"{said}, the lower end, because {found['why']}", "dim")
    return found
