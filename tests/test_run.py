"""What a run is: its identity, and what it takes from its needs."""

import json
from pathlib import Path

import pytest

from prefopt.config import composed
from prefopt.models.judge import Judge
from prefopt.run import Parts, run

TINY = ("dataset.pairs=8", "dataset.test_pairs=4", "dataset.demonstrations=8")


def identity(*overrides: str) -> str:
    return Parts(composed([*TINY, *overrides])).fingerprint()


@pytest.mark.parametrize(
    "change", ["seed=1", "noise.rate=0.1", "model.layers=3", "model.recipe.demonstrations.rounds=9", "dataset.pairs=9"]
)
def test_whatever_changes_the_outcome_changes_the_identity(change: str) -> None:
    assert identity(change) != identity()


@pytest.mark.parametrize(
    "same",
    [
        "tracking=none",
        "trainer.checkpoint_every_s=1",
        "evaluation.figures=false",
        "model.recipe.reward.lr=1",
        "rounds=1",
    ],
)
def test_what_cannot_change_the_outcome_does_not(same: str) -> None:
    assert identity(same) == identity()


def test_the_gibbs_policy_of_the_gold_reward_has_no_regret(home: Path) -> None:
    exact = ("dataset=bandit", "model=tabular", "method=gibbs", "noise=none", "method.needs.reward=gold")
    stored = run(composed([*exact, "dataset.pairs=64", "tracking=none", "evaluation.figures=false"]))
    figures = json.loads(stored.results.read_text())["figures"]
    assert figures["regret"] == pytest.approx(0, abs=1e-12)
    assert figures["gold/reward"] > figures["gold/reward_start"]


@pytest.mark.parametrize(
    ("judge", "temperature", "errs"), [("gold", 0.5, True), ("{method: bradley_terry}", 1.0, False)]
)
def test_only_the_gold_judge_is_heated_and_noised(
    home: Path, monkeypatch: pytest.MonkeyPatch, judge: str, temperature: float, errs: bool
) -> None:
    judges: list[Judge] = []
    ask = Judge.__call__
    monkeypatch.setattr(Judge, "__call__", lambda self, pairs: judges.append(self) or ask(self, pairs))
    exact = ("dataset=bandit", "model=log_linear", "dataset.temperature=0.5", "method=online_dpo", "rounds=1")
    run(
        composed(
            [*exact, f"method.needs.judge={judge}", "dataset.pairs=64", "tracking=none", "evaluation.figures=false"]
        )
    )
    assert (judges[0].temperature, judges[0].noise is not None) == (temperature, errs)
