"""The policy for the worst-off group: worked numbers, that nothing is better, and what it does not mind."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import prefopt.methods.selection.maxmin
from prefopt.config import composed
from prefopt.datasets.data import Data
from prefopt.errors import PrefoptError
from prefopt.methods.selection.gibbs import Gibbs
from prefopt.methods.selection.maxmin import MaxMin, mixed, worst
from prefopt.models.ensemble import Ensemble
from prefopt.models.exact import ExactPolicy, ExactReward, Table
from prefopt.models.scorer import centred
from prefopt.run import run

TWO = torch.tensor([[[1, 0, 0.4]], [[0, 1, 0.4]]], dtype=torch.float64)
UNIFORM = torch.full((1, 3), 1 / 3, dtype=torch.float64).log()


def utilities(policy: Tensor, r: Tensor) -> Tensor:
    """[U] F_u of log-probs [C, R]."""
    return (policy.exp() * r).sum(-1).mean(-1)


def objective(policy: Tensor, r: Tensor, reference: Tensor, beta: float) -> Tensor:
    return utilities(policy, r).min() - beta * (policy.exp() * (policy - reference)).sum(-1).mean()


def best_for(r: Tensor, reference: Tensor, beta: float) -> Tensor:
    return (reference + r / beta).log_softmax(-1)


def test_at_no_price_of_kl_the_group_level_shares_and_the_sample_level_is_bland() -> None:
    beta = 1e-2
    lam = worst(TWO, UNIFORM, beta)
    shared = best_for(mixed(lam, TWO), UNIFORM, beta)
    assert shared.exp().tolist()[0] == pytest.approx([0.5, 0.5, 0], abs=1e-4)
    assert float(utilities(shared, TWO).min()) == pytest.approx(0.5, abs=1e-4)
    bland = best_for(TWO.amin(0), UNIFORM, beta)
    assert float(utilities(bland, TWO).min()) == pytest.approx(0.4, abs=1e-4)
    majority = best_for(mixed(torch.tensor([2 / 3, 1 / 3], dtype=torch.float64), TWO), UNIFORM, beta)
    assert float(utilities(majority, TWO).min()) == pytest.approx(0, abs=1e-4)


def test_at_half_a_price_the_closed_form_has_the_numbers_of_the_card() -> None:
    lam = worst(TWO, UNIFORM, 0.5)
    assert lam.tolist() == pytest.approx([0.5, 0.5], abs=1e-6)
    tilted = UNIFORM + mixed(lam, TWO) / 0.5
    policy = tilted.log_softmax(-1)
    assert policy.exp().tolist()[0] == pytest.approx([0.354770, 0.354770, 0.290461], abs=1e-6)
    assert utilities(policy, TWO).tolist() == pytest.approx([0.470954] * 2, abs=1e-6)
    assert float(objective(policy, TWO, UNIFORM, 0.5)) == pytest.approx(0.468837, abs=1e-6)
    assert float(0.5 * tilted.logsumexp(-1).mean()) == pytest.approx(0.468837, abs=1e-6)
    bland = best_for(TWO.amin(0), UNIFORM, 0.5)
    assert bland.exp().tolist()[0] == pytest.approx([0.236656, 0.236656, 0.526688], abs=1e-6)
    assert float(objective(bland, TWO, UNIFORM, 0.5)) == pytest.approx(0.407924, abs=1e-6)


@given(seed=st.integers(0, 2**31), groups=st.integers(2, 5), beta=st.floats(0.05, 5))
def test_no_policy_serves_the_worst_off_group_better(seed: int, groups: int, beta: float) -> None:
    """Complementary slackness: whoever has weight is worst off; and neither its dual nor any policy near says more."""
    draw = torch.Generator().manual_seed(seed)
    r = torch.randn(groups, 4, 6, generator=draw, dtype=torch.float64)
    reference = torch.randn(4, 6, generator=draw, dtype=torch.float64).log_softmax(-1)
    lam = worst(r, reference, beta)
    assert (lam >= 0).all() and float(lam.sum()) == pytest.approx(1)
    tilted = reference + mixed(lam, r) / beta
    policy = tilted.log_softmax(-1)
    F = utilities(policy, r)
    assert float((lam * (F - F.min())).sum()) < 1e-6
    assert (F[lam > 1e-3] - F.min() < 1e-3).all()
    value = objective(policy, r, reference, beta)
    assert float(beta * tilted.logsumexp(-1).mean() - value) < 1e-6
    for size in (0.01, 0.3, 3):
        other = (policy + size * torch.randn(4, 6, generator=draw, dtype=torch.float64)).log_softmax(-1)
        assert objective(other, r, reference, beta) <= value + 1e-6


# The method


def solved(bandit: Data, prepared: Callable[..., Any], rewards: Tensor, level: Any = "group") -> Tensor:
    """[C, R] its log-probs, for reward models that say `rewards` [U, C, R]."""
    members = [ExactReward(Table(bandit.world)) for _ in rewards]
    for member, r in zip(members, rewards, strict=True):
        member.f.values.data.copy_(r)  # type: ignore[union-attr, operator]
    policy = ExactPolicy(bandit.world, Table(bandit.world))
    prepared(MaxMin(beta=0.3, level=level), policy=policy, reward=Ensemble(members)).finish(0)
    return policy.table().detach()


@pytest.fixture(scope="module")
def rewards(bandit: Data) -> Tensor:
    shape: Any = bandit.world.rewards.shape  # type: ignore[union-attr]
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("level", ["group", "sample"])
def test_what_bradley_terry_leaves_open_does_not_matter(
    bandit: Data, prepared: Callable[..., Any], rewards: Tensor, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number a prompt and a scale a group; the sample level would mind, were it centred over all prompts at once."""
    draw = torch.Generator().manual_seed(6)
    f = 3 * torch.randn(*rewards.shape[:2], 1, generator=draw, dtype=torch.float64)
    other = torch.tensor([0.1, 1.0, 7.0], dtype=torch.float64)[:, None, None] * rewards + f
    usual = solved(bandit, prepared, rewards, level)
    torch.testing.assert_close(solved(bandit, prepared, other, level), usual, rtol=0, atol=1e-5)

    def at_once(r: Tensor, reference: Tensor) -> Tensor:
        return (r - r.mean((1, 2), keepdim=True)) / r.std((1, 2), keepdim=True)

    if level == "sample":
        monkeypatch.setattr(prefopt.methods.selection.maxmin, "centred", at_once)
        a, b = (solved(bandit, prepared, r, level) for r in (rewards, rewards + f))
        assert (a - b).abs().max() > 0.1


@pytest.mark.parametrize("level", ["group", "sample"])
def test_the_order_of_groups_does_not_matter(
    bandit: Data, prepared: Callable[..., Any], rewards: Tensor, level: str
) -> None:
    turned = solved(bandit, prepared, rewards[[2, 0, 1]], level)
    torch.testing.assert_close(turned, solved(bandit, prepared, rewards, level), rtol=0, atol=1e-5)


@pytest.mark.parametrize("level", ["group", "sample"])
def test_with_one_group_it_is_the_policy_that_is_optimal_for_its_reward(
    bandit: Data, prepared: Callable[..., Any], rewards: Tensor, level: str
) -> None:
    world: Any = bandit.world
    reward, policy = ExactReward(Table(world)), ExactPolicy(world, Table(world))
    reward.f.values.data.copy_(centred(rewards[0], world.reference))  # type: ignore[union-attr, operator]
    prepared(Gibbs(beta=0.3), policy=policy, reward=reward).finish(0)
    torch.testing.assert_close(solved(bandit, prepared, rewards[:1], level), policy.table().detach())


def test_its_score_is_the_reward_that_it_is_optimal_for(bandit: Data, prepared: Callable[..., Any]) -> None:
    world: Any = bandit.world
    reward, policy = ExactReward(Table(world)), ExactPolicy(world, Table(world))
    reward.f.values.data.copy_(world.rewards)  # type: ignore[union-attr, operator]
    method = prepared(MaxMin(beta=0.3), policy=policy, reward=reward)
    method.finish(0)
    pairs = bandit.test.pairs.batch(np.arange(16))
    implied = 0.3 * (policy.logps(pairs) - world.reference[0, 0])[..., 0]
    score = method.score(pairs)
    torch.testing.assert_close(score[:, 0] - score[:, 1], implied[:, 0] - implied[:, 1])


def test_a_reward_that_likes_all_alike_is_refused(bandit: Data, prepared: Callable[..., Any], rewards: Tensor) -> None:
    with pytest.raises(PrefoptError, match="likes all responses to a prompt alike"):
        solved(bandit, prepared, torch.stack([rewards[0], torch.ones_like(rewards[0])]))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(PrefoptError, match=r"method\.level=token"):
        MaxMin(level="token")  # type: ignore[arg-type]
    with pytest.raises(PrefoptError, match=r"method\.beta=0"):
        MaxMin(beta=0)
    with pytest.raises(PrefoptError, match="dataset=bandit has no groups"):
        run(composed(["method=maxmin", "method.needs.reward=groups", "dataset=bandit", "model=tabular"]))
