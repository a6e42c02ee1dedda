"""What a run is: its identity, and what it takes from its needs."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from prefopt.config import composed
from prefopt.datasets.data import Data
from prefopt.errors import PrefoptError
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


def told(home: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str, **said: object) -> dict[str, object]:
    """The results of a short run whose audit says this of the labels."""
    from prefopt.audit import estimate

    monkeypatch.setattr(
        estimate, "flip_rate", lambda data, *, seed: Said(**{"rate": 0.3, "low": 0.1, "high": 0.4} | said)
    )
    exact = ("dataset=bandit", "model=log_linear", "rounds=1", "dataset.pairs=64", "evaluation.figures=false")
    return json.loads(run(composed([*exact, "tracking=none", *overrides])).results.read_text())


@dataclass
class Said:
    rate: float
    low: float
    high: float
    sound: bool = True
    why: str = ""


def test_a_method_can_be_told_the_estimated_rate(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_number = told(home, monkeypatch, "noise.assumed=0.3")
    estimated = told(home, monkeypatch, "noise.assumed=estimated")
    assert by_number["run"] != estimated["run"]
    added = {"noise/eps_hat": 0.3, "noise/eps_low": 0.1, "noise/eps_high": 0.4}
    assert estimated["figures"] == by_number["figures"] | added  # type: ignore[operator]
    again = told(home, monkeypatch, "noise.assumed=estimated", "method=cdpo", rate=0.0)
    assert again["figures"]["noise/eps_hat"] == 0.3, "one estimate serves all methods"  # type: ignore[index]


def test_an_estimate_is_of_the_tokens_that_it_was_made_from(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another tokenizer sees other features in the same data."""
    from prefopt.audit import estimate

    def first_token(data: Data, *, seed: int) -> Said:
        return Said(float(data.train.pairs.response.values[0]), 0.0, 0.5)

    monkeypatch.setattr(estimate, "flip_rate", first_token)
    parts = Parts(composed(["dataset=bandit", "dataset.pairs=64"]))
    data = parts.dataset.load()
    pairs = data.train.pairs
    again = replace(pairs, response=replace(pairs.response, values=pairs.response.values + 1))
    other = replace(data, train=replace(data.train, pairs=again))
    assert parts.estimate(other)["rate"] == parts.estimate(data)["rate"] + 1


def test_where_the_estimate_is_not_sound_the_lower_end_is_assumed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unsound = told(home, monkeypatch, "noise.assumed=estimated", low=0.0, sound=False, why="the margins are small")
    dpo = told(home, monkeypatch, "method=dpo", "noise.assumed=estimated")
    assert unsound["figures"]["noise/eps_hat"] == 0.0  # type: ignore[index]
    assert unsound["figures"]["theta/error"] == dpo["figures"]["theta/error"]  # type: ignore[index]
    assert "noise/eps_hat" not in dpo["figures"], "dpo believes in nothing"  # type: ignore[operator]


def test_an_online_method_has_no_labels_to_estimate_from(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PrefoptError, match="pairs of its own making"):
        told(home, monkeypatch, "method=online_dpo", "method/robust=unbiased", "noise.assumed=estimated")


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
