"""The exact checks of GRPO (arXiv 2402.03300) for what is built."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import Tensor

from prefopt.batch import Rated
from prefopt.datasets.data import Data
from prefopt.errors import PrefoptError
from prefopt.methods.online.advantages import centred, standardised
from prefopt.methods.online.clipping import clip_surrogate
from prefopt.methods.online.grpo import GRPO, k3
from prefopt.models.exact import ExactPolicy, Table
from prefopt.models.model import Gold

rewards = st.lists(st.integers(-8, 8), min_size=2, max_size=8).filter(lambda r: len(set(r)) > 1)


def group(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_1_a_lone_success_has_the_sample_standard_score() -> None:
    reward = group(1, 0, 0, 0, 0, 0, 0, 0)
    assert reward.std().item() == pytest.approx(0.353553, abs=1e-6)
    assert standardised(reward)[0].tolist() == pytest.approx([2.474867] + [-0.353552] * 7, abs=1e-6)
    assert standardised(reward, eps=1e-4)[0, 0].item() == pytest.approx(2.474174, abs=1e-6)


def test_2_half_successes_and_no_differences() -> None:
    assert standardised(group(1, 1, 0, 0))[0].tolist() == pytest.approx([0.866024] * 2 + [-0.866024] * 2, abs=1e-6)
    assert torch.equal(standardised(group(0.1, 0.1, 0.1)), torch.zeros(1, 3, dtype=torch.float64))


def test_2_rewards_that_differ_by_rounding_are_equal() -> None:
    assert torch.equal(standardised(group(0.3, 0.1 + 0.2, 0.3)), torch.zeros(1, 3, dtype=torch.float64))


def test_2_equal_rewards_have_no_gradient(numbers: Any, prepared: Any) -> None:
    batch = rated_of([3, 2], [0.7, 0.7])
    policy = numbers(-torch.rand(1, 2, 3, dtype=torch.float64))
    losses, _ = prepared(GRPO(beta=0.0), policy=policy, reward=None).loss(batch)
    losses.sum().backward()
    assert losses.item() == 0
    assert torch.equal(policy.values.grad, torch.zeros(1, 2, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("A", "ratio", "loss", "slope"), [(1, 1.5, -1.2, 0), (-1, 1.5, 1.5, 1), (-1, 0.5, 0.8, 0), (1, 0.5, -0.5, -1)]
)
def test_3_clip_table(A: float, ratio: float, loss: float, slope: float) -> None:
    rho = torch.tensor(ratio, dtype=torch.float64, requires_grad=True)
    old = torch.tensor([[[-1.0]]], dtype=torch.float64)
    value, clipped = clip_surrogate(old + rho.log(), old, group(A), 0.2, 0.2)
    assert value.item() == pytest.approx(loss, abs=1e-12)
    assert torch.autograd.grad(value.sum(), rho)[0].item() == pytest.approx(slope, abs=1e-12)
    assert clipped.item() == (slope == 0)


def test_4_k3() -> None:
    assert k3(torch.tensor(-1.0), torch.tensor(-1.5)).item() == pytest.approx(0.106531, abs=1e-6)
    logp = torch.tensor(-1.3, dtype=torch.float64, requires_grad=True)
    value = k3(logp, logp.detach())
    assert (value.item(), torch.autograd.grad(value, logp)[0].item()) == (0, 0)


@given(gap=st.floats(-20, 20))
def test_4_k3_is_never_negative(gap: float) -> None:
    assert k3(torch.tensor(0.0, dtype=torch.float64), torch.tensor(gap, dtype=torch.float64)).item() >= 0


def rated_of(lengths: list[int], reward: list[float], behaviour: Tensor | None = None) -> Rated:
    """One group."""
    length, T = torch.tensor([lengths]), max(lengths)
    return Rated(
        index=torch.zeros(1, dtype=torch.long),
        prompt=torch.ones(1, 1, dtype=torch.long),
        prompt_length=torch.ones(1, dtype=torch.long),
        response=torch.ones(1, len(lengths), T, dtype=torch.long),
        length=length,
        mean_length=length.float().mean(),
        reward=torch.tensor([reward], dtype=torch.float64),
        behaviour=torch.zeros(1, len(lengths), T, dtype=torch.float64) if behaviour is None else behaviour,
    )


def test_5_tokens_are_averaged_in_each_response_first(numbers: Any, prepared: Any) -> None:
    """Token losses 1 and 2 in responses of 2 and 4 tokens: 1.5, where a mean over tokens would be 1.666667."""
    gaps = [brentq(lambda gap, k=k: np.expm1(gap) - gap - k, 0, 3) for k in (1, 2)]
    batch = rated_of([2, 4], [0.0, 0.0])
    values = torch.zeros(1, 2, 4, dtype=torch.float64)
    reference = values + torch.tensor(gaps, dtype=torch.float64)[None, :, None] * batch.mask
    method = prepared(GRPO(beta=1.0), policy=numbers(values), reference=numbers(reference), reward=None)
    losses, metrics = method.loss(batch)
    assert losses.item() == pytest.approx(1.5, abs=1e-9)
    assert metrics["objective/kl"].item() == pytest.approx((2 * 1 + 4 * 2) / 2, abs=1e-9)


def test_6_token_weights_on_policy(numbers: Any, prepared: Any) -> None:
    batch = rated_of([2, 4], [1.0, 0.0])
    policy = numbers(torch.zeros(1, 2, 4, dtype=torch.float64))
    prepared(GRPO(beta=0.0), policy=policy, reward=None).loss(batch)[0].sum().backward()
    weights = -policy.values.grad / standardised(batch.reward)[0, 0]
    expected = torch.tensor([[[0.25, 0.25, 0, 0], [-0.125] * 4]], dtype=torch.float64)
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=0)


@given(r=rewards, c=st.floats(0.1, 10), d=st.floats(-10, 10))
def test_7_advantages_do_not_know_scale_and_shift_of_the_reward(r: list[int], c: float, d: float) -> None:
    reward = group(*r)
    torch.testing.assert_close(standardised(c * reward + d, eps=0.0), standardised(reward, eps=0.0))
    torch.testing.assert_close(centred(reward + d), centred(reward))


@given(r=rewards)
def test_7_centred_rewards_are_those_of_leave_one_out_up_to_a_factor(r: list[int]) -> None:
    reward, G = group(*r), len(r)
    others = (reward.sum() - reward) / (G - 1)
    torch.testing.assert_close(G / (G - 1) * centred(reward), reward - others)


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(PrefoptError, match="group of one"):
        standardised(group(1.0))


def test_without_a_kl_there_is_no_reference() -> None:
    assert GRPO(beta=0.0).roles == ("policy", "reward")
    assert set(GRPO(beta=0.04).roles) == {"policy", "reward", "reference"}


def test_samples_carry_their_reward_and_the_log_probs_of_the_policy_that_drew_them(
    bandit: Data, prepared: Callable[..., Any]
) -> None:
    world: Any = bandit.world
    policy = ExactPolicy(world, Table(world))
    f: Any = policy.f
    f.values.data.normal_(generator=torch.Generator().manual_seed(0))
    method = prepared(GRPO(group_size=4, prompts=40, beta=0.0), policy=policy, reward=Gold(bandit))
    tables = [method.collect(bandit.train.pairs, round) for round in range(8)]
    for table in tables:
        batch = table.batch(np.arange(40))
        assert (batch.n, batch.response.shape) == (4, (40, 4, 1))
        torch.testing.assert_close(batch.reward, world.reward(batch))
        assert torch.equal(batch.behaviour, policy.logps(batch).detach())
    assert not np.array_equal(tables[0].response.values, tables[1].response.values)
    assert np.array_equal(method.collect(bandit.train.pairs, 1).response.values, tables[1].response.values)
    _, times = np.unique(np.concatenate([table.ids for table in tables]), return_counts=True)
    assert (len(times), set(times)) == (64, {5})


def test_a_second_pass_is_off_policy(bandit: Data, prepared: Callable[..., Any]) -> None:
    """The ratio is to the policy that sampled, not to that of the last step."""
    world: Any = bandit.world
    policy = ExactPolicy(world, Table(world))
    f: Any = policy.f
    method = prepared(GRPO(group_size=4, prompts=16, beta=0.0), policy=policy, reward=Gold(bandit))
    batch = method.collect(bandit.train.pairs, 0).batch(np.arange(16))
    assert method.loss(batch)[1]["clip/fraction"].sum() == 0
    f.values.data.normal_(generator=torch.Generator().manual_seed(0))
    rho = (policy.logps(batch) - batch.behaviour).exp()[..., 0].detach()
    A = standardised(batch.reward)
    losses, metrics = method.loss(batch)
    torch.testing.assert_close(losses.detach(), -torch.minimum(rho * A, rho.clamp(0.8, 1.2) * A).mean(1))
    clipped = ((rho > 1.2) & (A > 0)) | ((rho < 0.8) & (A < 0))
    torch.testing.assert_close(metrics["clip/fraction"], clipped.float().mean(1))
