"""What a method reports of itself on pairs, and what it relies on, against the truth that it cannot see."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefopt.batch import Groups
from prefopt.engine.loader import sequential
from prefopt.evaluation.pairs import Figures, auroc, detection
from prefopt.evaluation.subject import Lesson
from prefopt.table import Table


@dataclass(frozen=True)
class View:
    """One method's view of pairs, `batch_size` at a time."""

    lesson: Lesson
    batch_size: int
    device: Any

    def reported(self, pairs: Table) -> Figures:
        """The loss of held-out pairs and all that it reports, as `eval/...` means."""
        found: dict[str, list[Tensor]] = {}
        with self._evaluation():
            for batch in self._batches(pairs):
                losses, metrics = self.lesson.loss(batch)
                for name, value in {"loss": losses, **metrics}.items():
                    found.setdefault(f"eval/{name}", []).append(value.double().cpu().expand(len(batch)))
        return {name: float(torch.cat(values).mean()) for name, values in found.items()}

    def trust(self, pairs: Table, flipped: np.ndarray) -> Figures:
        """noise/detect_auroc of the probability that a recorded label is right, noise/precision, the share of these
        that is of clean labels, and for clean and for flipped ones the means of it and of what else the method reports
        of single labels as noise/..., where it has an opinion. flipped: [n], of the first n pairs."""
        found: dict[str, list[Tensor]] = {}
        with self._evaluation():
            for batch in self._batches(pairs, np.arange(len(flipped))):
                weights = self.lesson.weigh(batch)
                if weights is None or weights.ndim > 1:
                    return {}
                own = {k: v for k, v in self.lesson.loss(batch)[1].items() if k.startswith("noise/") and v.ndim}
                for name, value in {"noise/weight": weights, **own}.items():
                    found.setdefault(name, []).append(value.cpu())
        values = {name: torch.cat(parts).numpy() for name, parts in found.items()}
        means = {f"{name}_clean": value[~flipped] for name, value in values.items()}
        means |= {f"{name}_flipped": value[flipped] for name, value in values.items()}
        figures = {name: float(value.mean()) for name, value in means.items() if len(value)}
        weight = values["noise/weight"]
        if weight.any():
            figures["noise/precision"] = float(weight[~flipped].sum() / weight.sum())
        return detection(weight, flipped) | figures

    def bearing(self, pairs: Table, world: Any) -> Figures:
        """How well the weights of tokens tell those that bear reward (AUROC), where the world knows them, and the share
        of weights that are zero."""
        found, truth = [], []
        with self._evaluation():
            for batch in self._batches(pairs):
                weights = self.lesson.weigh(batch)
                if weights is None or weights.ndim == 1:
                    return {}
                found.append(weights[batch.mask].cpu())
                if hasattr(world, "bearing"):
                    truth.append(world.bearing(batch)[batch.mask].cpu())
        weight = torch.cat(found).numpy()
        figures = {"tokens/zeros": float((weight == 0).mean())}
        return figures | ({"tokens/auroc": auroc(weight, torch.cat(truth).numpy())} if truth else {})

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        was_training = self.lesson.training
        self.lesson.train(False)
        try:
            with torch.no_grad():
                yield
        finally:
            self.lesson.train(was_training)

    def _batches(self, pairs: Table, rows: np.ndarray | None = None) -> Iterator[Groups]:
        table = self.lesson.collect(pairs, 0)
        assert table is not None
        for batch in sequential(table, self.batch_size, rows):
            yield batch.to(self.device)
