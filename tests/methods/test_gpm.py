"""The general preference model as a method (arXiv 2410.02197): its loss by hand, and as runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from prefopt.config import composed
from prefopt.datasets.game import Game
from prefopt.errors import PrefoptError
from prefopt.methods.pairwise.robust.none import Plain
from prefopt.methods.pairwise.robust.smoothing import Smoothing
from prefopt.methods.reward.gpm import GPM
from prefopt.models.exact import ExactModel, Table, everything
from prefopt.models.preference import Form, Preference
from prefopt.run import run

CYCLE = [[0.5, 0.9, 0.4], [0.1, 0.5, 0.9], [0.6, 0.1, 0.5]]
QUICK = ["tracking=none", "trainer=cpu", "evaluation.times=1", "evaluation.figures=false", "noise=none"]
TO_THE_MINIMUM = ["optimizer=lbfgs", "rounds=1", "batch_size=100000", "clip=null", "warmup=0"]


def test_the_loss_is_that_of_the_log_odds_whoever_is_stored_first(prepared: Any) -> None:
    data = Game(preferences=CYCLE, pairs=12).load()
    torch.manual_seed(0)
    reward: Any = ExactModel(parameters=Table).reward(data, None, None, Form(4, tau=0.2))
    batch: Any = data.train.pairs.batch(np.arange(12))
    z = reward.margin(batch) * (1 - 2 * batch.label)
    assert bool(batch.label.any()) and not bool(batch.label.all())
    method = prepared(GPM(robust=Plain(), dimension=4, tau=0.2), reward=reward)
    torch.testing.assert_close(method.loss(batch)[0], -logsigmoid(z))
    smooth = prepared(GPM(robust=Smoothing(epsilon=0.1), dimension=4, tau=0.2), reward=reward)
    torch.testing.assert_close(smooth.loss(batch)[0], -0.9 * logsigmoid(z) - 0.1 * logsigmoid(-z))


def figures(*overrides: str) -> dict[str, float]:
    stored = run(composed([*overrides, *QUICK]))
    found: dict[str, float] = json.loads(stored.results.read_text())["figures"]
    return found


def test_at_the_minimum_it_is_the_game_s_own_preference_which_no_reward_is(home: Path) -> None:
    gpm, reward = (figures(f"method={name}", "dataset=game", *TO_THE_MINIMUM) for name in ("gpm", "bradley_terry"))
    right = (0.9 + 0.6 + 0.9) / 3
    assert gpm["eval/rewards/accuracies"] == pytest.approx(right)
    assert reward["eval/rewards/accuracies"] == pytest.approx((0.9 + 0.4 + 0.9) / 3)
    assert gpm["calibration/ece"] == pytest.approx(0, abs=1e-3)
    stored = run(composed(["method=gpm", "dataset=game", *TO_THE_MINIMUM, *QUICK]))
    data = Game(preferences=CYCLE, pairs=12).load()
    judge: Any = ExactModel(parameters=Table).reward(data, None, stored.policy)
    learned = judge.table(everything(1, 3))[0].sigmoid()
    torch.testing.assert_close(learned, torch.tensor(CYCLE, dtype=torch.float64), rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", ["best_of_n", "gibbs"])
def test_whoever_takes_a_reward_takes_it(method: str, home: Path) -> None:
    found = figures(f"method={method}", "dataset=game", "dataset.pairs=300", "++method.needs.reward={method: gpm}")
    assert found["eval/rewards/accuracies"] > 0.7


TEXT = ["dataset=reviews", "model=tiny", "model.vocabulary=300", "model.hidden_size=16", "model.layers=1"]
TEXT += ["model.heads=2", "dataset.pairs=24", "dataset.test_pairs=16", "dataset.demonstrations=24"]
TEXT += ["rounds=2", "batch_size=8", "evaluation.prompts=4"]


def test_in_text_a_gate_reads_the_prompt_and_self_play_uses_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judges: list[Preference] = []
    asked = Preference._embedded
    monkeypatch.setattr(Preference, "_embedded", lambda self, groups: judges.append(self) or asked(self, groups))
    need = "++method.needs.reward={method: gpm, method.gate: true, method.dimension: 4, rounds: 2, batch_size: 8}"
    found = figures("method=gpo", *TEXT, "method.prompts=8", need)
    assert np.isfinite(found["gold/kl"]) and "length/policy" in found
    assert all(judge.gate is not None and judge.dimension == 4 for judge in judges)
    trained, used = judges[0], judges[-1]
    assert trained.gate is not None and used.gate is not None
    assert torch.equal(trained.gate.weight, used.gate.weight), "the gate is stored and opened"
    assert trained.gate.weight.grad is not None


def test_a_gate_on_an_exact_world_is_refused(home: Path) -> None:
    with pytest.raises(PrefoptError, match=r"method\.gate=true"):
        figures("method=gpm", "dataset=game", "method.gate=true")
