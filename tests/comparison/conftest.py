"""Runs and sweeps as they lie on disk, written in a moment: a comparison reads files and trains nothing."""

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefopt import store
from prefopt.comparison.cells import Cell
from prefopt.manifest import Cell as Entry
from prefopt.manifest import Manifest

CONFIG: dict[str, Any] = {
    "seed": 0,
    "rounds": 3,
    "batch_size": 256,
    "model": {"_target_": "prefopt.models.exact.ExactModel", "recipe": {"pairwise": {"rounds": 3}}},
    "dataset": {"_target_": "prefopt.datasets.bandit.Bandit", "pairs": 64, "seed": 0},
    "noise": {"_target_": "prefopt.noise.flip.Flip", "rate": 0.0, "assumed": 0.0},
    "trainer": {"precision": "32-true", "checkpoint_every_s": 120},
    "evaluation": {"prompts": 200, "figures": False},
    "tracking": {"experiment": "prefopt"},
    "method": {
        "_target_": "prefopt.methods.pairwise.base.Pairwise",
        "objective": {"_target_": "prefopt.methods.pairwise.objectives.dpo.DPO", "beta": 0.1},
        "needs": {"policy": None, "reference": "cached"},
    },
    "choices": {"method": "dpo", "model": "log_linear", "dataset": "bandit", "noise": "flip"},
}
ENVIRONMENT = {"python": "3.11", "packages": {"torch": "2.13"}, "git": {"commit": "c0ffee", "dirty": False}}
ROBUST = {"cdpo": "smoothing.Smoothing", "rdpo": "unbiased.Unbiased"}


def config_of(method: str = "dpo", rate: float = 0.0, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A resolved config as runs have them; what follows the seed and the rate follows them. changes: dotted keys, a
    dot as two underscores."""
    config = copy.deepcopy(CONFIG)
    config["seed"] = config["dataset"]["seed"] = seed
    config["noise"]["rate"] = config["noise"]["assumed"] = rate
    config["choices"]["method"] = method
    if method in ROBUST:
        config["method"]["robust"] = {"_target_": f"prefopt.methods.pairwise.robust.{ROBUST[method]}", "epsilon": rate}
    for key, value in changes.items():
        *path, last = key.split("__")
        node = config
        for part in path:
            node = node[part]
        node[last] = value
    return config


def figures_of(method: str, rate: float, seed: int) -> dict[str, float]:
    """Made up: robust methods lose less, and seeds differ."""
    slope = {"dpo": 1.0, "cdpo": 1.2, "rdpo": 0.5}.get(method, 0.8)
    win = 0.9 - slope * rate + 0.01 * seed + 0.001 * (seed * len(method) % 3)
    return {
        "gold/win_rate": win,
        "gold/reward": 2 * win - 1,
        "gold/reward_start": 0.01 * seed,
        "gold/kl": 1.5 - rate,
        "regret": 1 - win,
    }


def cell_of(method: str = "dpo", rate: float = 0.0, seed: int = 0, *, name: str = "", **more: Any) -> Cell:
    """A cell that is done; figures, data and environment may be given, all else changes its config."""
    given = {key: more.pop(key) for key in ("figures", "data", "environment", "state") if key in more}
    facts = {
        "figures": figures_of(method, rate, seed),
        "data": {"train/used": 64},
        "environment": ENVIRONMENT,
        "state": "done",
    }
    folder = Path(name or f"{method}-bandit-{rate:g}-{seed}")
    return Cell(folder, config=config_of(method, rate, seed, **more), **(facts | given))


class Lab:
    """A home with runs."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, method: str = "dpo", rate: float = 0.0, seed: int = 0, *, name: str = "", **more: Any) -> str:
        """Write a run that is done, or in the `state` that is given; its folder's name."""
        cell = cell_of(method, rate, seed, name=name, **more)
        folder = self.home / cell.run
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(dict(cell.config)))
        store.Run(folder).mark(cell.state, **({"error": "it broke\nhere"} if cell.state == "failed" else {}))
        events = [
            {"step": step, "time": 0.0, "metrics": {"loss": 1 / step, "gold/win_rate": 0.5 + 0.01 * step * (1 - rate)}}
            for step in (1, 2, 4)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
        if cell.state == "done":
            facts = {"figures": cell.figures, "data": cell.data, "environment": cell.environment}
            (folder / "results.json").write_text(json.dumps({"run": cell.run, **facts, "config": cell.config}))
        return cell.run

    def grid(self, methods: str = "dpo,cdpo,rdpo", rates: str = "0,0.2,0.4", seeds: int = 3) -> list[str]:
        return [
            self.run(method, float(rate), seed)
            for method in methods.split(",")
            for rate in rates.split(",")
            for seed in range(seeds)
        ]

    def sweep(self, name: str, cells: Mapping[str, tuple[str, ...]], configs: Mapping[str, Any] | None = None) -> Path:
        """A manifest over runs by name, with their overrides; configs: of those that nobody has begun."""
        entries = tuple(
            Entry(index, run, overrides, (configs or {}).get(run, {}))
            for index, (run, overrides) in enumerate(cells.items())
        )
        folder = self.home / "sweeps" / name
        Manifest(folder, (), {}, self.home, (), entries).write()
        return folder

    def delete(self, run: str) -> None:
        shutil.rmtree(self.home / run)


def overrides_of(run: str) -> tuple[str, ...]:
    method, _, rate, seed = run.split("-")
    return (f"method={method}", f"noise.rate={rate}", f"seed={seed}")


@pytest.fixture
def lab(home: Path) -> Lab:
    home.mkdir()
    return Lab(home)


@pytest.fixture
def compare(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Path, str]]:
    """The command: its page's folder, and what it showed."""
    from prefopt.compare import main

    def compared(*words: str) -> tuple[Path, str]:
        assert main(words) == 0
        shown = capsys.readouterr().out
        return Path(shown.splitlines()[-1]).parent, shown

    return compared
