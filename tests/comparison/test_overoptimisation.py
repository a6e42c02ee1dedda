"""The picture of over-optimisation, of runs that were trained and of runs that lie there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefopt.comparison.cells import valued
from prefopt.comparison.design import Design
from prefopt.config import composed
from prefopt.evaluation import figures
from prefopt.evaluation.overoptimisation import way
from prefopt.run import run
from prefopt.tracking.events import EVENTS

from .conftest import Lab, cell_of

Compare = Callable[..., tuple[Path, str]]
PICTURE = "figures/overoptimisation.svg"
SMALL = ("dataset=bandit", "model=tabular", "dataset.pairs=48", "dataset.test_pairs=16", "dataset.contexts=4")
SMALL += ("tracking=none", "trainer=cpu", "noise=flip", "noise.rate=0.2", "batch_size=16")


def trained(method: str, *more: str) -> Path:
    needs = "method.needs.reward={method: bradley_terry}"
    return run(composed([f"method={method}", *SMALL, *more, needs])).folder


def test_it_is_drawn_of_finished_runs(home: Path, compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    for drawing in ("learning_curves", "reliability_diagram"):
        monkeypatch.setattr(figures, drawing, lambda *_: [])
    best = trained("best_of_n", "method.samples=5")
    grpo = trained("grpo", "rounds=4", "evaluation.times=2", "method.prompts=8", "method.group_size=2")
    solved = [trained("gibbs", "method.beta=null", f"method.kl={kl}") for kl in (0.5, 1.5)]
    assert list(way(best / EVENTS)) == [1, 2, 4, 5]
    assert len(way(grpo / EVENTS)) == 2
    assert [round(point.kl, 6) for folder in solved for point in way(folder / EVENTS).values()] == [0.5, 1.5]
    assert [(folder / PICTURE).exists() for folder in (best, grpo, *solved)] == [True, True, False, False]
    found, _ = compare("method=best_of_n,gibbs,grpo", "method.kl=null,0.5,1.5")
    drawn = (found / PICTURE).read_text()
    assert [drawn.count(f">{name}</text>") for name in ("best_of_n", "gibbs", "grpo", "gibbs (kl 0.5)")] == [1, 1, 1, 0]
    assert "Over-optimisation" in (found / "comparison.html").read_text()
    assert "overoptimisation.png" in (found / "comparison.md").read_text()


def measured(lab: Lab, name: str, *points: tuple[float, float, float], **more: Any) -> None:
    """A run that has been at these KLs, golds and proxies."""
    keys = ("gold/kl", "gold/standardised", "proxy/standardised")
    shown = [dict(zip(keys, point, strict=True)) for point in points]
    run = lab.run("gibbs", 0.2, name=name, figures={"gold/reward": 1.0, **shown[-1]}, **more)
    events = [{"step": step, "time": 0.0, "metrics": metrics} for step, metrics in enumerate(shown)]
    (lab.home / run / EVENTS).write_text("".join(json.dumps(event) + "\n" for event in events))


def test_cells_that_differ_in_how_hard_they_optimise_are_one_curve(lab: Lab, compare: Compare) -> None:
    for kl in (0.5, 1.0, 4.0):
        for seed in (0, 1):
            measured(lab, f"{kl}-{seed}", (kl, 1.0 + seed, 2.0), seed=seed, method__kl=kl)
    found, _ = compare("method=gibbs", "method.kl=0.5,1,4")
    drawn = (found / PICTURE).read_text()
    assert drawn.count(">gibbs</text>") == 1 and "gibbs (kl" not in drawn


def test_one_point_is_not_drawn_and_neither_is_what_has_no_proxy(lab: Lab, compare: Compare) -> None:
    measured(lab, "one", (1.0, 1.0, 2.0), seed=0)
    lab.grid("dpo", "0.2")
    found, _ = compare("dataset=bandit")
    assert not (found / PICTURE).exists() and "Over-optimisation" not in (found / "comparison.html").read_text()
    measured(lab, "two", (1.0, 1.0, 2.0), seed=1)
    found, _ = compare("dataset=bandit")
    drawn = (found / PICTURE).read_text()
    assert ">gibbs</text>" in drawn and ">dpo</text>" not in drawn


def test_ways_to_make_one_judge_of_several_are_told_apart() -> None:
    named = {"_target_": "hydra.utils.get_method", "path": "prefopt.models.scorer.worst_case"}
    made = {"_target_": "prefopt.models.scorer.uncertainty_weighted", "_partial_": True, "lam": 0.5}
    cells = [cell_of("gibbs", name=str(k), method__aggregate=node) for k, node in enumerate((named, made))]
    assert [valued(cell, "method.aggregate") for cell in cells] == ["worst_case", "uncertainty_weighted"]
    found = Design.of(cells, {"method/aggregate"}, ())
    assert found.arms == ("gibbs (uncertainty_weighted)", "gibbs (worst_case)")
    assert {place.curve for place in found.placed} == set(found.arms)
