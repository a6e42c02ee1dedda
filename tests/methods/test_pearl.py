"""Rewards with a variance: the loss by hand, its limits, and a model that sums over steps."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prefopt.batch import Groups, Pairs
from prefopt.config import composed
from prefopt.datasets.trajectories import Trajectories
from prefopt.errors import PrefoptError
from prefopt.evaluation.exact import ranked
from prefopt.methods.pairwise.robust.none import Plain
from prefopt.methods.pairwise.robust.unbiased import Unbiased
from prefopt.methods.reward.bradley_terry import BradleyTerry
from prefopt.methods.reward.pearl import Pearl
from prefopt.models.exact import ExactReward, Linear, Steps
from prefopt.models.gaussian import Gaussian
from prefopt.models.scorer import Scorer
from prefopt.run import run

Make = Callable[..., tuple[Pearl, Pairs]]


class Given(nn.Module, Scorer):
    """Free numbers [B, 2, T] as the steps of a reward."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)

    def steps(self, groups: Groups) -> Tensor:
        return self.values[groups.index]

    def score(self, groups: Groups) -> Tensor:
        return self.steps(groups).sum(-1)

    def redraw(self, generator: torch.Generator) -> None:
        """The numbers are those of the test."""


@pytest.fixture(scope="session")
def lawful(pairs_of: Callable[..., Pairs], prepared: Any) -> Make:
    """The method with steps' mu and sigma [B, 2, T], winner first, and its batch."""

    def make(mu: Any, sigma: Any, *, margin: Any = None, **settings: Any) -> tuple[Pearl, Pairs]:
        means = torch.tensor(mu, dtype=torch.float64)
        log_variance = (2 * torch.as_tensor(sigma, dtype=torch.float64).log()).expand_as(means)
        label = torch.zeros(len(means), dtype=torch.long)
        batch = pairs_of(torch.ones(len(means), 2, dtype=torch.long), label)
        method = prepared(Pearl(**{"robust": Plain(), **settings}), reward=Given(means))
        method.reward = Gaussian(Given(means), Given(log_variance.clone()))
        return method, replace(batch, margin=None if margin is None else torch.tensor(margin, dtype=torch.float64))

    return make


LOGIT_7 = math.log(0.7 / 0.3)
ONE = [[[1.0], [0.0]]]


def test_the_loss_of_the_mean_and_its_gradient_are_those_of_a_soft_label(lawful: Make) -> None:
    method, batch = lawful(ONE, 1.0, margin=[LOGIT_7], soft=True, sampled=0, floor=0)
    losses, _ = method.loss(batch)
    (slope,) = torch.autograd.grad(losses.sum(), method.reward.mean.values)
    assert losses.item() == pytest.approx(0.613262, abs=1e-6)
    assert slope.flatten().tolist() == pytest.approx([0.031059, -0.031059], abs=1e-6)


@pytest.mark.parametrize(("nodes", "within"), [(8, 5e-3), (64, 1e-6)])
def test_the_expected_loss_is_the_integral_over_normal_rewards(lawful: Make, nodes: int, within: float) -> None:
    both = [2 / math.sqrt(2)]  # of either return, so that their difference has a standard deviation of 2
    soft = {"margin": [LOGIT_7], "soft": True, "floor": 0}
    method, batch = lawful(ONE, both, sampled=1, nodes=nodes, **soft)
    expected = method.loss(batch)[0].item() - 0.613262
    assert expected == pytest.approx(0.942495, abs=within)
    z = 1 + 2 * np.random.default_rng(0).standard_normal(100_000)
    drawn = 0.7 * np.logaddexp(0, -z) + 0.3 * np.logaddexp(0, z)
    assert expected == pytest.approx(drawn.mean(), abs=1e-2)


def test_the_entropy_of_a_step_is_kept_above_the_floor(lawful: Make) -> None:
    for sigma, entropy in ((1.0, 1.418939), (0.1, -0.883647)):
        alone = {"sampled": 0, "entropy": 2.0}
        method, batch = lawful(ONE, sigma, floor=1, **alone)
        without, _ = lawful(ONE, sigma, floor=0, **alone)
        price = method.loss(batch)[0] - without.loss(batch)[0]
        assert price.item() == pytest.approx(2 - entropy, abs=1e-6)
        (slope,) = torch.autograd.grad(price.sum(), method.reward.log_variance.values)
        assert slope.flatten().tolist() == pytest.approx([-0.25, -0.25]), "half a nat a log-variance, over two steps"
    enough, batch = lawful(ONE, 1.0, floor=1, sampled=0, entropy=1.4)
    assert enough.loss(batch)[0].item() == pytest.approx(math.log1p(math.exp(-1)))


def test_variances_of_steps_add_up(lawful: Make) -> None:
    many, batch = lawful([[[0.5, 0.5], [0.2, -0.2]]], [[[0.3, 0.4], [1.2, 0.9]]], floor=0)
    one, _ = lawful(ONE, [[[0.5], [1.5]]], floor=0)
    assert many.loss(batch)[0].item() == pytest.approx(one.loss(batch)[0].item())


def test_without_spread_the_sampled_term_is_the_mean_term_again(lawful: Make) -> None:
    sure, batch = lawful([[[1.5], [-0.5]], [[0.0], [1.0]]], math.exp(-3), floor=0)
    mean, _ = lawful([[[1.5], [-0.5]], [[0.0], [1.0]]], math.exp(-3), floor=0, sampled=0)
    assert sure.loss(batch)[0].tolist() == pytest.approx((2 * mean.loss(batch)[0]).tolist(), rel=5e-3)


def test_both_terms_move_mean_and_variance(lawful: Make) -> None:
    method, batch = lawful([[[2.0], [0.0]]], 1.0, floor=0)
    method.loss(batch)[0].sum().backward()
    mean, log_variance = method.reward.mean.values.grad, method.reward.log_variance.values.grad
    assert mean.flatten().tolist()[0] < 0 < mean.flatten().tolist()[1]
    assert (log_variance > 0).all(), "of a pair that is ranked right, doubt costs"


def test_with_neither_term_it_is_bradley_terry(lawful: Make, prepared: Any) -> None:
    values = [[[1.5], [-0.5]], [[0.0], [1.0]]]
    for robust in (Plain, lambda: Unbiased(epsilon=0.2)):
        method, batch = lawful(values, 1.0, sampled=0, floor=0, robust=robust())
        plain = prepared(BradleyTerry(robust=robust()), reward=Given(torch.tensor(values, dtype=torch.float64)))
        assert torch.equal(method.loss(batch)[0], plain.loss(batch)[0])


def test_a_soft_label_needs_a_margin(lawful: Make) -> None:
    method, batch = lawful(ONE, 1.0, soft=True)
    with pytest.raises(PrefoptError, match="soft=true"):
        method.loss(batch)


@pytest.mark.parametrize("wrong", [{"nodes": 0}, {"floor": -1.0}, {"sampled": -0.5}])
def test_what_makes_no_loss_is_named(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(PrefoptError, match=f"method.{name}="):
        Pearl(robust=Plain(), **wrong)


# How it ranks all trajectories


def test_a_reward_that_orders_all_responses_right_has_a_correlation_of_one(trajectories: Any) -> None:
    world = trajectories.world
    for change, expected in ((lambda q: q**3, 1.0), (lambda q: -q, -1.0), (torch.zeros_like, 0.0)):
        found = ranked(world, lambda groups, change=change: change(world.reward(groups)), "cpu")
        assert found["rank/spearman"] == pytest.approx(expected)


# Rewards of steps


@pytest.fixture(scope="module")
def trajectories() -> Any:
    return Trajectories(trajectories=6, sources=6, fresh=4, steps=5, labels="oracle").load()


def test_a_reward_of_steps_is_the_sum_of_what_one_network_says_of_each(trajectories: Any) -> None:
    f = Steps(trajectories.world, widths=[7])
    batch = trajectories.train.pairs.batch(np.arange(8))
    steps = f.steps(batch)
    assert steps.shape == (8, 2, 5)
    positions = trajectories.world.features.view(10, 5, 3)[batch.response[..., 0]]
    assert torch.equal(f.read(f.trunk(positions)), steps)
    torch.testing.assert_close(f.at(batch), steps.sum(-1))
    torch.testing.assert_close(f()[0][batch.response[..., 0]], steps.sum(-1))


def test_a_reward_that_is_no_sum_has_one_step(trajectories: Any) -> None:
    reward = ExactReward(Linear(trajectories.world))
    batch = trajectories.train.pairs.batch(np.arange(8))
    assert torch.equal(reward.steps(batch)[..., 0], reward.score(batch))


def test_its_variance_lies_beside_the_mean_which_opens_as_any_reward_model(home: Path) -> None:
    small = ["dataset.trajectories=8", "dataset.sources=8", "dataset.fresh=6", "rounds=2", "tracking=none"]
    stored = run(composed(["method=pearl", "dataset=trajectories", "noise=none", "trainer=cpu", *small]))
    assert sorted(path.name for path in stored.policy.rglob("*.safetensors")) == ["exact.safetensors"] * 2
    data = Trajectories(trajectories=8, sources=8, fresh=6).load()
    from prefopt.models.exact import ExactModel, Table

    model = ExactModel(parameters=Table, rewards=Steps)
    mean, log_variance = (model.reward(data, None, place) for place in (stored.policy, stored.policy / "log_variance"))
    assert not torch.equal(mean.f(), log_variance.f())
