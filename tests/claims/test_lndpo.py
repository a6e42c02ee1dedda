"""The claim of length-normalised DPO at small scale, over paired seeds, and that it can fail."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prefopt.claims.claim import Experiment, read
from prefopt.claims.statistics import Cell, at_equal_cost, gap_at_best, median_gap
from prefopt.methods.pairwise.objectives.lndpo import LNDPO
from prefopt.methods.pairwise.pair import Pair
from prefopt.reproduce import CLAIMS, run_all


def experiment() -> Experiment:
    return read(CLAIMS / "lndpo.yaml").experiments[0]


def small() -> Experiment:
    """One cell of each method, a quarter of the pairs and smaller batches."""
    whole = experiment()
    smaller = ["dataset.pairs=2500", "dataset.demonstrations=1500", "batch_size=64", "evaluation.prompts=200"]
    arms = {arm: whole.arms[arm] for arm in ("lndpo 2", "dpo 0.1")}
    return replace(whole, base=[*whole.base, *smaller], arms=arms, seeds=2)


def better_and_shorter(cells: list[Cell]) -> tuple[float, float]:
    ours, theirs = ["lndpo 2"], ["dpo 0.1"]
    return (
        gap_at_best(figure="gold/reward", by="gold/reward", better=ours, worse=theirs)(cells),
        gap_at_best(figure="length/policy", by="gold/reward", better=theirs, worse=ours)(cells),
    )


def test_answers_are_better_and_shorter_in_every_seed_and_not_without_the_normalisation(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = list(run_all("lndpo", small(), jobs=1))
    quality, length = better_and_shorter(cells)
    assert quality > 0.03
    assert length > 0

    def summed(self: LNDPO, pair: Pair) -> Tensor:
        return -torch.nn.functional.logsigmoid(self.beta * (pair.w.ratio - pair.l.ratio))

    monkeypatch.setattr(LNDPO, "preference", summed)
    elsewhere = tmp_path / "summed"
    for stage in home.glob("sft-*"):
        shutil.copytree(stage, elsewhere / stage.name)
    monkeypatch.setenv("PREFOPT_HOME", str(elsewhere))
    once = replace(small(), arms={"lndpo 2": small().arms["lndpo 2"]})
    wrong = [cell for cell in cells if cell.arm == "dpo 0.1"] + list(run_all("lndpo", once, jobs=1))
    quality, length = better_and_shorter(wrong)
    assert quality < 0


def test_the_claim_asks_for_all_of_it_in_every_seed() -> None:
    """Quality, length and KL of a cell by its place on the grid, in the order of the arms."""
    shape = {
        "dpo": [(0.70, 13.0, 4.0), (0.65, 13.0, 3.5), (0.60, 12.5, 3.0), (0.50, 12.0, 2.0), (0.40, 11.0, 1.0)],
        "lndpo": [(0.90, 11.0, 6.0), (0.80, 11.0, 4.5), (0.75, 11.0, 4.0), (0.65, 10.0, 2.5), (0.45, 9.0, 1.0)],
        "simpo": [(0.90, 12.0, 9.0)] * 5,
    }
    whole = experiment()
    cells = [
        Cell(arm, seed, {}, {"gold/reward": q, "length/policy": length, "gold/kl": kl})
        for method, grid in shape.items()
        for arm, (q, length, kl) in zip((a for a in whole.arms if a.startswith(f"{method} ")), grid, strict=True)
        for seed in range(3)
    ]
    gated = [test for test in whole.tests if test.gated]
    assert [test.holds(test.statistic(cells)) for test in gated] == [True] * 4

    def failing(arms: set[str], **figures: float) -> list[int]:
        changed = [
            replace(cell, figures=cell.figures | {k.replace("_", "/"): v for k, v in figures.items()})
            if cell.arm in arms and cell.seed == 2
            else cell
            for cell in cells
        ]
        return [place for place, test in enumerate(gated) if not test.holds(test.statistic(changed))]

    assert failing({"lndpo 1", "lndpo 2", "lndpo 2.5"}, gold_reward=0.69) == [0]
    assert failing({"lndpo 1"}, length_policy=14.0) == [1]
    assert failing({"lndpo 2", "lndpo 2.5", "lndpo 10"}, gold_reward=0.5) == [2]
    assert failing({"lndpo 5"}, gold_kl=3.6) == [3]


def test_statistics_of_grids_by_hand() -> None:
    figures = {"a": (1.0, 5.0), "b": (3.0, 7.0), "c": (2.0, 1.0), "d": (2.5, 3.0)}
    cells = [Cell(arm, 0, {}, {"x": x, "y": y}) for arm, (x, y) in figures.items()]
    cells += [Cell(arm, 1, {}, {"x": x + 1, "y": -y}) for arm, (x, y) in figures.items()]
    assert median_gap(figure="x", better=["a", "b", "c"], worse=["d"])(cells) == pytest.approx(-0.5)
    assert gap_at_best(figure="y", by="x", better=["a", "b"], worse=["c", "d"])(cells) == pytest.approx(-4)
    assert at_equal_cost(figure="y", cost="x", arm="c", along=["a", "b"])(cells[:4]) == pytest.approx(1 / 6)
