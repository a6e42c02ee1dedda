"""The MADPO claim at small scale, in an exact world, and that it can fail."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prefopt.claims.claim import Experiment, read
from prefopt.claims.statistics import Cell
from prefopt.methods.pairwise.madpo import MADPO
from prefopt.reproduce import CLAIMS, run_all

EXACT = ["dataset=bandit", "dataset.pairs=2048", "dataset.scale=2", "model=log_linear", "optimizer=lbfgs"]
ALONE = ["trainer=cpu", "noise=none", "rounds=1", "batch_size=100000", "clip=null", "warmup=0", "evaluation.times=1"]


def text() -> Experiment:
    (experiment,) = read(CLAIMS / "madpo.yaml").experiments
    return experiment


def gap() -> dict[str, float]:
    """Gold rewards in the exact world, at the minimum of each loss."""
    experiment = text()
    arms = {arm: experiment.arms[arm] for arm in ("dpo", "madpo", "madpo tau 2")}
    exact = replace(experiment, base=[*EXACT, *ALONE, "evaluation.figures=false"], arms=arms, seeds=1)
    return {cell.arm: cell.figures["gold/reward"] for cell in run_all("madpo", exact, jobs=1)}


def test_margins_of_hard_pairs_are_amplified_and_the_reward_with_them(home: Path) -> None:
    """tau 2 amplifies fewer of them."""
    reward = gap()
    assert reward["madpo"] > reward["madpo tau 2"] + 0.01
    assert reward["madpo tau 2"] > reward["dpo"] + 0.01


@pytest.mark.parametrize("wrong", ["frozen", "inverted"])
def test_wrong_weights_make_the_claim_fail(home: Path, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    right = MADPO._weight

    def weight(self: MADPO, m: Tensor) -> Tensor:
        return torch.ones_like(m) if wrong == "frozen" else 1 / right(self, m)

    monkeypatch.setattr(MADPO, "_weight", weight)
    reward = gap()
    assert reward["madpo"] <= reward["dpo"] + 1e-6


ORDER = {"ipo": 2.5, "dpo": 4.7, "beta_dpo": 5.0, "madpo": 5.4, "dpo at beta / c_max": 5.7}


@pytest.mark.parametrize("arm", ["madpo", "beta_dpo", "dpo"])
def test_the_order_of_the_paper_is_asked_for(arm: str) -> None:
    def verdicts(rewards: dict[str, float]) -> list[bool]:
        cells = [Cell(a, seed, {}, {"gold/reward": r}) for a, r in rewards.items() for seed in range(3)]
        return [test.holds(test.statistic(cells)) for test in text().tests if test.gated]

    assert all(verdicts(ORDER))
    assert not all(verdicts(ORDER | {arm: 1.0}))
