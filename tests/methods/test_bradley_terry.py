"""The reward model: its loss by hand, margins, centring, and every robustifier of the pairwise family."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.batch import Pairs
from prefopt.config import CONF, composed, made, plain
from prefopt.datasets.data import Data
from prefopt.errors import PrefoptError
from prefopt.methods.pairwise.robust.em import EM
from prefopt.methods.pairwise.robust.none import Plain
from prefopt.methods.pairwise.robust.unbiased import Unbiased
from prefopt.methods.reward.bradley_terry import BradleyTerry
from prefopt.run import run

ROBUST = sorted(path.stem for path in (CONF / "method" / "robust").glob("*.yaml"))
Make = Callable[..., tuple[BradleyTerry, Pairs]]


@pytest.fixture(scope="session")
def rated(pairs_of: Callable[..., Pairs], numbers: Any, prepared: Any) -> Make:
    """The reward model with rewards [B, 2], winner first, and its batch; every other pair is stored loser first."""

    def make(rewards: Any, *, known: dict[str, Any] | None = None, **settings: Any) -> tuple[BradleyTerry, Pairs]:
        values = torch.tensor(rewards, dtype=torch.float64)
        label = torch.arange(len(values)) % 2
        stored = torch.where(label[:, None] == 1, values.flip(1), values)
        batch = replace(pairs_of(torch.ones(len(values), 2, dtype=torch.long), label), **(known or {}))
        method = BradleyTerry(**{"robust": Plain(), **settings})
        return prepared(method, reward=numbers(stored[..., None])), batch

    return make


def gradient(method: BradleyTerry, batch: Pairs) -> Tensor:
    """[B, 2] of the summed losses with respect to the rewards, winner first."""
    (found,) = torch.autograd.grad(method.loss(batch)[0].sum(), method.reward.values)
    return torch.where(batch.label[:, None] == 1, found[..., 0].flip(1), found[..., 0])


def test_the_loss_and_its_gradient_are_those_of_the_logistic(rated: Make) -> None:
    method, batch = rated([[0.0, 0.0], [1.5, -0.5], [0.0, 1.0]])
    assert method.loss(batch)[0].tolist() == pytest.approx([0.693147, 0.126928, 1.313262], abs=1e-6)
    slope = [-0.5, -0.119203, -0.731059]
    assert gradient(method, batch)[:, 0].tolist() == pytest.approx(slope, abs=1e-6)
    assert gradient(method, batch)[:, 1].tolist() == pytest.approx([-x for x in slope], abs=1e-6)


REWARDS = [[0.3, -0.2], [1.0, 3.0], [-2.0, -2.0], [40.0, 1.0]]


def test_by_default_it_is_the_plain_loss_bit_for_bit(rated: Make) -> None:
    method, batch = rated(REWARDS)
    r = torch.tensor(REWARDS, dtype=torch.float64)
    expected = -logsigmoid(r[:, 0] - r[:, 1])
    for robust in (Plain(), Unbiased(epsilon=0.0)):
        method, batch = rated(REWARDS, robust=robust)
        assert torch.equal(method.loss(batch)[0], expected)


def test_the_unbiased_reward_model_adds_its_margin_to_the_loss(rated: Make) -> None:
    """L(-) = L(+) + z for the logistic loss, so that L^ = L(+) - eps/(1 - 2 eps) z."""
    method, batch = rated(REWARDS, robust=Unbiased(epsilon=0.2))
    z = [w - l for w, l in REWARDS]  # noqa: E741
    expected = [math.log1p(math.exp(-x)) - 0.2 / 0.6 * x for x in z]
    assert method.loss(batch)[0].tolist() == pytest.approx(expected, rel=1e-12)


def test_a_pair_has_to_be_won_by_its_margin_where_that_is_known(rated: Make) -> None:
    margin = torch.tensor([2.0, -2.0, math.nan, 0.0], dtype=torch.float64)
    method, batch = rated([[1.0, 0.0]] * 4, known={"margin": margin}, margin=0.5)
    at = [math.log1p(math.exp(-x)) for x in (0.0, 0.0, 1.0, 1.0)]
    assert method.loss(batch)[0].tolist() == pytest.approx(at, rel=1e-12)
    assert torch.isfinite(gradient(method, batch)).all()


def test_the_flipped_label_has_the_same_margin_to_win_by(rated: Make) -> None:
    known = {"margin": torch.tensor([2.0], dtype=torch.float64)}
    method, batch = rated([[1.0, 0.0]], known=known, margin=1.0, robust=Unbiased(epsilon=0.1))
    right, flipped = math.log1p(math.exp(1.0)), math.log1p(math.exp(3.0))
    assert method.loss(batch)[0].item() == pytest.approx((0.9 * right - 0.1 * flipped) / 0.8, rel=1e-12)


def test_margins_that_no_pair_has_are_refused_in_training_alone(rated: Make) -> None:
    method, batch = rated([[1.0, 0.0]], margin=1.0)
    with pytest.raises(PrefoptError, match=r"method.margin=1.0 is for pairs with a recorded margin"):
        method.loss(batch)
    assert method.eval().loss(batch)[0].item() == pytest.approx(math.log1p(math.exp(-1.0)))


def test_centring_is_added_after_any_robustifier(rated: Make) -> None:
    """Inside EM's p it would cancel: it is the same for both labels."""
    for robust in (Plain, Unbiased, EM):
        without, batch = rated(REWARDS, robust=robust())
        centred, _ = rated(REWARDS, robust=robust(), centring=0.01)
        added = centred.loss(batch)[0] - without.loss(batch)[0]
        assert added.tolist() == pytest.approx([0.01 * (w + l) ** 2 for w, l in REWARDS], abs=1e-9)  # noqa: E741


@pytest.mark.parametrize(
    "setting", [{"margin": -1.0}, {"margin": math.nan}, {"centring": -0.1}, {"centring": math.inf}]
)
def test_a_setting_out_of_range_is_named(setting: dict[str, float]) -> None:
    with pytest.raises(PrefoptError, match=rf"method.{next(iter(setting))}="):
        BradleyTerry(robust=Plain(), **setting)


@pytest.mark.parametrize("name", ROBUST)
def test_every_robustifier_takes_the_two_losses_of_a_reward_model(name: str, bandit: Data, numbers: Any) -> None:
    """As it takes them of any method, with annotators and groups; what it trusts is a probability."""
    method = made(plain(composed(["method=bradley_terry", f"method/robust={name}", "noise.assumed=0.2"]))["method"])
    batch = bandit.train.pairs.batch(torch.arange(16).numpy())
    draw = torch.Generator().manual_seed(0)
    method.prepare(
        {"reward": numbers(torch.randn(16, 2, 1, generator=draw, dtype=torch.float64))},
        optimizer=torch.optim.SGD,
        schedule=lambda _: 1.0,
        micro_batch_size=None,
        clip=None,
        seed=0,
        data=bandit.train.pairs,
    )
    z = method.reward.values.detach().sum(-1)
    z = (z[:, 0] - z[:, 1]) * (1 - 2 * batch.label)
    losses, metrics = method.loss(batch)
    torch.testing.assert_close(losses, method.robust(-logsigmoid(z), -logsigmoid(-z), batch))
    assert losses.requires_grad and method.coupled == method.robust.coupled
    assert method.robust.facts().keys() <= metrics.keys()
    weights = method.weigh(batch)
    assert weights is None or bool(((weights >= 0) & (weights <= 1)).all())


def test_a_robust_reward_model_is_trained_from_the_command_line(home: Path) -> None:
    overrides = ["method=bradley_terry", "method/robust=em", "noise.rate=0.2", "dataset=bandit", "dataset.pairs=64"]
    config = composed([*overrides, "dataset.test_pairs=64", "trainer=cpu", "tracking=none", "rounds=1"])
    assert config.choices.method == "bradley_terry-em"
    stored = run(config)
    figures = stored.results.read_text()
    for figure in ("noise/weight_clean", "calibration/ece", "group/worst_accuracy", "group/accuracy/1"):
        assert f'"{figure}"' in figures
    assert (stored.folder / "figures" / "reliability.svg").exists()
