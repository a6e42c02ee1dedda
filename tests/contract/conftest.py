"""The rows of the contract: every method that conf/method holds, each in the smallest world that feeds it."""

import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import Tensor

import prefopt.run
from prefopt.batch import Prompts
from prefopt.config import CONF, composed, made, plain
from prefopt.datasets.bandit import Bandit
from prefopt.datasets.reviews import Reviews
from prefopt.evaluation import figures
from prefopt.methods.base import Method
from prefopt.store import Run
from prefopt.tracking.events import EVENTS, read

COMMON = ("tracking=none", "trainer=cpu", "trainer.log_every=2", "rounds=3", "batch_size=8", "evaluation.times=2")
EXACT = ("dataset=bandit", "model=tabular", "dataset.seed=0", "dataset.pairs=24", "dataset.test_pairs=16")
EXACT_SIZES = ("dataset.contexts=4", "dataset.responses=4", "dataset.dimension=3")
TEXT = ("dataset=reviews", "model.vocabulary=300")
REASONED = ("dataset=words_causes", "model.vocabulary=512")
TEXT_SIZES = ("dataset.pairs=24", "dataset.test_pairs=16", "dataset.demonstrations=24", "model=tiny")
TEXT_SIZES += ("model.hidden_size=16", "model.layers=1", "model.heads=2")


@dataclass(frozen=True)
class Row:
    """One YAML of conf/method."""

    name: str

    def __str__(self) -> str:
        return self.name

    @cached_property
    def default(self) -> DictConfig:
        """What `method=<name>` alone composes to."""
        return composed([f"method={self.name}"])

    @property
    def method(self) -> Method:
        """A fresh method, not yet given its roles."""
        return made(plain(self.default)["method"])

    @cached_property
    def world(self) -> tuple[str, ...]:
        """The exact world, which is quick, where it gives what the method eats, and text elsewhere."""
        method = self.method
        eaten = Prompts if method.per_round is not None else method.eats
        if "exact" in method.worlds and any(issubclass(kind, eaten) for kind in Bandit.gives):
            return EXACT + EXACT_SIZES
        return TEXT + TEXT_SIZES if eaten in Reviews.gives else REASONED + TEXT_SIZES

    def config(self, *overrides: str) -> DictConfig:
        return composed([f"method={self.name}", *self.world, *COMMON, "evaluation.prompts=4", *overrides])


ROWS = [Row(path.stem) for path in sorted((CONF / "method").glob("*.yaml"))]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "row" in metafunc.fixturenames:
        metafunc.parametrize("row", ROWS, ids=str)


@dataclass(frozen=True)
class Outcome:
    """All that a run leaves but times and paths. parts, data, tokenizer: what it was made of, as it ended."""

    stored: Run
    weights: dict[str, Tensor]
    figures: dict[str, float]
    events: list[tuple[int, dict[str, float]]]
    parts: Any
    data: Any
    tokenizer: Any


class Lab:
    """Carries out runs, each in a home of its own unless a name says otherwise."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.usual = cache(self.run)

    def run(self, row: Row, *overrides: str, home: str = "") -> Outcome:
        self.count += 1
        kept: dict[str, Any] = {}

        def record(parts: Any, examination: Any, tokenizer: Any, folder: Path) -> list[Path]:
            if parts.settings["method"] == wanted:
                kept.update(parts=parts, data=examination.data, tokenizer=tokenizer)
            return original(parts, examination, tokenizer, folder)

        config = row.config(*overrides)
        wanted, original = prefopt.run.Parts(config).settings["method"], prefopt.run.record
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PREFOPT_HOME", str(self.folder / (home or f"home{self.count}")))
            patch.setattr(prefopt.run, "record", record)
            for drawing in ("learning_curves", "margin_histogram", "reliability_diagram", "samples_table"):
                patch.setattr(figures, drawing, lambda *_: [])
            patch.setattr(prefopt.run, "overoptimisation", lambda *_: [])
            stored = prefopt.run.run(config)
        return Outcome(
            stored,
            {
                f"{path.parent.relative_to(stored.policy) / name}": tensor
                for path in sorted(stored.policy.rglob("*.safetensors"))
                for name, tensor in load_file(path).items()
            },
            json.loads(stored.results.read_text())["figures"],
            [(event.step, event.metrics) for event in read(stored.folder / EVENTS)],
            **kept,
        )


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))
