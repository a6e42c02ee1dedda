"""A paper's claim as a file: runs over a grid, statistics of their figures, and what they must be to hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from prefopt.claims import statistics
from prefopt.claims.statistics import Statistic
from prefopt.errors import PrefoptError


@dataclass(frozen=True)
class Test:
    """One line of the verdict: the statistic must lie in [at_least, at_most]; without either it is only reported.
    An extreme over seeds has no interval."""

    says: str
    statistic: Statistic
    at_least: float | None
    at_most: float | None
    extreme: bool = False

    def holds(self, value: float) -> bool:
        low = float("-inf") if self.at_least is None else self.at_least
        high = float("inf") if self.at_most is None else self.at_most
        return low <= value <= high

    @property
    def gated(self) -> bool:
        return self.at_least is not None or self.at_most is not None

    @property
    def criterion(self) -> str:
        if not self.gated:
            return "reported"
        if self.at_least is not None and self.at_most is not None:
            return f"in [{self.at_least:g}, {self.at_most:g}]"
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"


@dataclass(frozen=True)
class Experiment:
    """Runs: every arm x place on the grid x seed, all with the overrides `base`; and the tests on them."""

    name: str
    base: Sequence[str]
    arms: Mapping[str, Sequence[str]]
    over: Mapping[str, Sequence[Any]]
    seeds: int
    tests: Sequence[Test]

    def cells(self) -> list[tuple[str, int, dict[str, Any], list[str]]]:
        """(arm, seed, place, overrides) of every run."""
        places = [dict(zip(self.over, values, strict=True)) for values in product(*self.over.values())]
        return [
            (arm, seed, at, [*self.base, *own, *(f"{k}={v}" for k, v in at.items()), f"seed={seed}"])
            for at in places
            for seed in range(self.seeds)
            for arm, own in self.arms.items()
        ]


@dataclass(frozen=True)
class Claim:
    """One paper's claim. family: of methods that it is about, None: that of the method which it is named after."""

    name: str
    claim: str
    paper: str
    experiments: Sequence[Experiment]
    family: str | None = None


def read(path: Path) -> Claim:
    """The claim in a YAML file.

    Raises PrefoptError where the file is not there, or names a statistic that is not.
    """
    if not path.exists():
        names = ", ".join(sorted(other.stem for other in path.parent.glob("*.yaml")))
        raise PrefoptError(f"claim={path.stem}: there is no {path}", f"choose one of {names}, or claim=all")
    content = yaml.safe_load(path.read_text())
    experiments = [
        Experiment(
            name=name,
            base=node["base"],
            arms=node["arms"],
            over=node.get("over", {}),
            seeds=node["seeds"],
            tests=[_test(path, test) for test in node["tests"]],
        )
        for name, node in content["experiments"].items()
    ]
    return Claim(path.stem, content["claim"], content["paper"], experiments, content.get("family"))


def _test(path: Path, node: Mapping[str, Any]) -> Test:
    kind = node["statistic"]
    make = getattr(statistics, kind, None)
    if make is None:
        raise PrefoptError(f"{path}: there is no statistic {kind}", "take one of prefopt/claims/statistics.py")
    return Test(
        node["says"], make(**node["of"]), node.get("at_least"), node.get("at_most"), kind in statistics.EXTREMES
    )
