"""What acts or learns on the bandit, against enumeration: best_of_n, gibbs, online_dpo."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from prefopt.datasets.data import Data
from prefopt.engine.best import kl_of_best
from prefopt.evaluation.exact import enumerated
from prefopt.methods.iterative.online_dpo import OnlineDPO
from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.robust.none import Plain
from prefopt.methods.selection.best_of_n import BestOfN
from prefopt.methods.selection.gibbs import Gibbs
from prefopt.models.exact import ExactPolicy, ExactReward, Table
from prefopt.models.judge import Judge
from prefopt.models.model import Gold
from prefopt.noise.flip import Flip
from prefopt.noise.none import Clean

CONTEXTS, RESPONSES = 6, 5


@pytest.fixture
def policy(bandit: Data) -> ExactPolicy:
    """Not the uniform one."""
    policy: Any = ExactPolicy(bandit.world, Table(bandit.world))
    policy.f.values.data.normal_(generator=torch.Generator().manual_seed(1))
    return policy


def contexts(bandit: Data) -> Any:
    """One prompt of each context."""
    _, rows = np.unique(bandit.train.pairs.prompt.values, return_index=True)
    assert len(rows) == CONTEXTS
    return bandit.train.pairs.batch(rows)


def best_of_n_law(policy: Tensor, rewards: Tensor, n: int) -> Tensor:
    """[C, R] probabilities of the best of n draws, by enumeration; rewards without ties."""
    order = rewards.argsort(-1)
    below = policy.exp().gather(1, order).cumsum(-1)
    law = below**n - torch.nn.functional.pad(below, (1, 0))[:, :-1] ** n
    return torch.zeros_like(law).scatter(1, order, law)


@pytest.mark.parametrize("n", [1, 3, 16])
def test_best_of_n_answers_as_enumeration_says(
    bandit: Data, policy: ExactPolicy, prepared: Callable[..., Any], n: int
) -> None:
    world: Any = bandit.world
    method = prepared(BestOfN(samples=n), policy=policy, reward=Gold(bandit))
    draws = 4000
    prompts = contexts(bandit)
    answers = method.act(prompts, draws, torch.Generator().manual_seed(0))
    assert answers.response.shape == (CONTEXTS, draws, 1)
    law = best_of_n_law(policy.table().detach(), world.rewards, n)
    gold = world.reward(answers)
    for row, context in enumerate(prompts.prompt[:, 0]):
        expected = (law[context] * world.rewards[context]).sum()
        variance = (law[context] * (world.rewards[context] - expected) ** 2).sum()
        assert abs(gold[row].mean() - expected) < 4 * (variance / draws).sqrt()
        counts = torch.bincount(answers.response[row, :, 0], minlength=RESPONSES).double()
        likely = law[context] * draws > 5
        assert (counts[~likely] < 30).all()
        if likely.sum() > 1:
            share = law[context][likely] / law[context][likely].sum()
            assert chisquare(counts[likely], share * counts[likely].sum()).pvalue > 1e-4


@given(n=st.integers(1, 64))
def test_best_of_n_keeps_its_bound_on_the_kl(bandit: Data, n: int) -> None:
    """The bound is met but for the probability of drawing a response twice, and nearly reached where that is small."""
    world: Any = bandit.world
    start = torch.randn(CONTEXTS, RESPONSES, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    policy = start.log_softmax(-1)
    law = best_of_n_law(policy, world.rewards, n)
    kl = torch.where(law > 0, law * (law.log() - policy), 0).sum(-1)
    assert (kl <= kl_of_best(n) + 1e-12).all()


def test_best_of_n_leaves_its_policy_alone(bandit: Data, policy: ExactPolicy, prepared: Callable[..., Any]) -> None:
    before = policy.table().detach().clone()
    method = prepared(BestOfN(samples=4), policy=policy, reward=Gold(bandit))
    assert method.collect(bandit.train.pairs, 0) is None
    method.finish(0)
    method.act(contexts(bandit), 8, torch.Generator().manual_seed(0))
    assert torch.equal(policy.table(), before)
    assert method.trains == ()


# Gibbs


def gold_table(bandit: Data) -> ExactReward:
    """A reward model that has learned the gold reward."""
    reward: Any = ExactReward(Table(bandit.world))
    reward.f.values.data.copy_(bandit.world.rewards)  # type: ignore[union-attr]
    return reward


def solved(bandit: Data, prepared: Callable[..., Any], beta: float) -> Tensor:
    policy = ExactPolicy(bandit.world, Table(bandit.world))
    method = prepared(Gibbs(beta=beta), policy=policy, reward=gold_table(bandit))
    assert method.collect(bandit.train.pairs, 0) is None
    method.finish(0)
    return policy.table().detach()


def value(world: Any, policy: Tensor, beta: float) -> Tensor:
    """[C] E[r] - beta KL(pi || ref)."""
    return (policy.exp() * (world.rewards - beta * (policy - world.reference))).sum(-1)


@given(beta=st.floats(0.02, 10), seed=st.integers(0, 2**31), size=st.floats(0.01, 5))
def test_no_policy_is_worth_more_than_gibbs(
    bandit: Data, prepared: Callable[..., Any], beta: float, seed: int, size: float
) -> None:
    world: Any = bandit.world
    best = solved(bandit, prepared, beta)
    noise = torch.randn(CONTEXTS, RESPONSES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for other in ((best + size * noise).log_softmax(-1), (size * noise).log_softmax(-1), world.reference):
        assert (value(world, other, beta) <= value(world, best, beta) + 1e-12).all()


@pytest.mark.parametrize("beta", [0.05, 0.5, 5.0])
def test_gibbs_is_its_closed_form_and_has_no_regret(bandit: Data, prepared: Callable[..., Any], beta: float) -> None:
    world: Any = bandit.world
    best = solved(bandit, prepared, beta)
    weights = world.reference.exp() * (world.rewards / beta).exp()
    torch.testing.assert_close(best.exp(), weights / weights.sum(-1, keepdim=True), rtol=1e-10, atol=1e-300)
    torch.testing.assert_close(value(world, best, beta), beta * weights.sum(-1).log(), rtol=1e-10, atol=1e-12)
    figures = enumerated(world, best, beta=beta)
    assert figures["regret"] == pytest.approx(0, abs=1e-10)
    assert figures["gold/reward"] > figures["gold/reward_start"]


def test_gibbs_may_be_repeated(bandit: Data, prepared: Callable[..., Any]) -> None:
    policy = ExactPolicy(bandit.world, Table(bandit.world))
    method = prepared(Gibbs(beta=0.3), policy=policy, reward=gold_table(bandit))
    tables = []
    for round in range(2):
        method.finish(round)
        tables.append(policy.table().detach())
    assert torch.equal(*tables)


# Online DPO


def judged_rounds(
    bandit: Data, policy: ExactPolicy, prepared: Callable[..., Any], rate: float, rounds: int
) -> tuple[list[Any], Judge]:
    noise = Flip(rate=rate, assumed=rate) if rate else Clean(rate=0, assumed=0)
    judge = Judge(Gold(bandit), temperature=1.0, noise=noise, seed=3)
    method = prepared(
        OnlineDPO(objective=DPO(), robust=Plain(), prompts=256), policy=policy, reference=policy, judge=judge
    )
    return [method.collect(bandit.train.pairs, round) for round in range(rounds)], judge


def test_every_round_labels_fresh_samples(bandit: Data, policy: ExactPolicy, prepared: Callable[..., Any]) -> None:
    world: Any = bandit.world
    tables, judge = judged_rounds(bandit, policy, prepared, 0.0, 8)
    assert judge.calls == 8 * 256
    assert len({id for table in tables for id in table.ids}) == 8 * 256
    assert not np.array_equal(tables[0].response.values, tables[1].response.values)
    batches = [table.batch(np.arange(256)) for table in tables]
    context = torch.cat([batch.prompt[:, 0] for batch in batches])
    drawn = torch.cat([batch.response[..., 0] for batch in batches])
    law = policy.table().detach().exp()
    for c in range(CONTEXTS):
        counts = torch.bincount(drawn[context == c].flatten(), minlength=RESPONSES).double()
        assert chisquare(counts, law[c] * counts.sum()).pvalue > 1e-4
    r = world.rewards[context[:, None], drawn]
    second_wins = (r[:, 1] - r[:, 0]).sigmoid()
    label = torch.cat([batch.label for batch in batches])
    assert abs((label - second_wins).sum()) < 4 * (second_wins * (1 - second_wins)).sum().sqrt()
    surprise = (label - second_wins) * (r[:, 1] - r[:, 0])
    assert abs(surprise.sum()) < 4 * (second_wins * (1 - second_wins) * (r[:, 1] - r[:, 0]) ** 2).sum().sqrt()


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_noise_turns_the_labels_of_the_judge_at_its_rate(
    bandit: Data, policy: ExactPolicy, prepared: Callable[..., Any], rate: float
) -> None:
    clean, _ = judged_rounds(bandit, policy, prepared, 0.0, 8)
    noisy, _ = judged_rounds(bandit, policy, prepared, rate, 8)
    turned = np.concatenate([a.columns["label"] != b.columns["label"] for a, b in zip(clean, noisy, strict=True)])
    for a, b in zip(clean, noisy, strict=True):
        assert np.array_equal(a.response.values, b.response.values)
    assert abs(turned.mean() - rate) < 4 * math.sqrt(rate * (1 - rate) / len(turned))
    assert len({tuple(part) for part in turned.reshape(8, 256)}) == 8


def test_online_dpo_learns_what_the_judge_likes(bandit: Data, prepared: Callable[..., Any]) -> None:
    """A few steps of plain descent on its own pairs raise the gold reward."""
    world: Any = bandit.world
    policy, reference = (ExactPolicy(world, Table(world)) for _ in range(2))
    judge = Judge(Gold(bandit), temperature=1.0, noise=Clean(rate=0, assumed=0), seed=0)
    method = prepared(
        OnlineDPO(objective=DPO(beta=0.1), robust=Plain(), prompts=128), policy=policy, reference=reference, judge=judge
    )
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
    for round in range(30):
        loss = method.loss(method.collect(bandit.train.pairs, round).batch(np.arange(128)))[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    figures = enumerated(world, policy.table(), beta=0.1)
    assert figures["gold/win_rate"] > 0.65
    assert figures["gold/reward"] > figures["gold/reward_start"] + 0.3
