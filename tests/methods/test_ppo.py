"""The exact checks of PPO (arXiv 1707.06347, 1909.08593), a bed whose optimum is known, and PPO on a small Llama."""

import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import prefopt.table
from prefopt.batch import Groups, Prompts, Rollouts
from prefopt.config import composed
from prefopt.datasets.data import Data
from prefopt.engine.sampling import draw
from prefopt.errors import Interrupted, PrefoptError
from prefopt.methods.base import Method
from prefopt.methods.online.clipping import clip_value
from prefopt.methods.online.ppo import PPO
from prefopt.methods.online.returns import adaptive, explained, gae, kl_rewards, whitened
from prefopt.methods.rollout import joined
from prefopt.models.causal import CausalPolicy, Critic, frozen_copy
from prefopt.models.exact import ExactPolicy
from prefopt.models.exact import Table as Free
from prefopt.models.model import Gold
from prefopt.models.scorer import Scorer
from prefopt.run import run
from prefopt.table import Ragged


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


ALL = torch.ones(1, 3, dtype=torch.bool)


def test_1_generalised_advantages_and_returns() -> None:
    advantage, returns = gae(row(0, 0, 1), row(0.5, 0.4, 0.3), ALL)
    assert advantage[0].tolist() == pytest.approx([0.43675, 0.565, 0.7], abs=1e-12)
    assert returns[0].tolist() == pytest.approx([0.93675, 0.965, 1.0], abs=1e-12)
    advantage, _ = gae(row(0, 0, 1), row(0.5, 0.4, 0.3), ALL, lam=1.0)
    assert advantage[0].tolist() == pytest.approx([0.5, 0.6, 0.7], abs=1e-12)


def test_1_a_discount_counts_from_token_to_token() -> None:
    advantage, _ = gae(row(0, 0, 1), torch.zeros(1, 3, dtype=torch.float64), ALL, gamma=0.5, lam=1.0)
    assert advantage[0].tolist() == [0.25, 0.5, 1.0]


def test_2_whitening_with_and_without_the_mean() -> None:
    advantage = row(0.43675, 0.565, 0.7)
    assert whitened(advantage, ALL)[0].tolist() == pytest.approx([-1.214143, -0.020934, 1.235077], abs=2e-6)
    kept = whitened(advantage, ALL, shift_mean=False)
    assert kept[0].tolist() == pytest.approx([-0.646893, 0.546316, 1.802327], abs=2e-6)


def test_3_the_score_is_added_to_the_last_token() -> None:
    reward = kl_rewards(row(-1, -2, -0.5), row(-1.2, -1.5, -0.5), torch.tensor([0.8]), ALL, 0.05)
    assert reward[0].tolist() == pytest.approx([-0.01, 0.025, 0.8], abs=1e-7)


@pytest.mark.parametrize(("kl", "beta"), [(3, 0.149808), (6, 0.15), (12, 0.150192)])
def test_4_the_kl_weight_follows_the_target(kl: float, beta: float) -> None:
    assert adaptive(0.15, kl, target=6, episodes=64, horizon=10000) == pytest.approx(beta, abs=1e-9)


def test_5_the_worse_of_the_value_and_the_clipped_value_counts() -> None:
    value = torch.tensor([[[1.0]]], dtype=torch.float64, requires_grad=True)
    old, returns = torch.full_like(value, 0.5), torch.full_like(value, 0.9)
    loss, held = clip_value(value, old, returns, 0.2)
    assert (loss.item(), held.item()) == (pytest.approx(0.02, abs=1e-12), 1)
    assert torch.autograd.grad(loss.sum(), value)[0].item() == 0
    loss, held = clip_value(value, old, returns, 10.0)
    assert (loss.item(), held.item()) == (pytest.approx(0.005, abs=1e-12), 0)


def test_6_the_kl_rewards_of_a_response_add_up_to_its_log_ratio() -> None:
    logps, reference = row(-1, -2, -0.5), row(-1.2, -1.5, -0.1)
    reward = kl_rewards(logps, reference, torch.zeros(1), ALL, 0.3)
    torch.testing.assert_close(reward.sum(-1), -0.3 * (logps - reference).sum(-1))
    assert not kl_rewards(logps, logps, torch.zeros(1), ALL, 0.3).any()


def rollouts(length: list[list[int]], behaviour: Tensor, advantage: Tensor) -> Rollouts:
    """What a critic that said 0 throughout has made of samples."""
    lengths = torch.tensor(length)
    (B, n), T = lengths.shape, int(lengths.max())
    return Rollouts(
        index=torch.arange(B),
        prompt=torch.ones(B, 1, dtype=torch.long),
        prompt_length=torch.ones(B, dtype=torch.long),
        response=torch.ones(B, n, T, dtype=torch.long),
        length=lengths,
        mean_length=lengths.double().mean(),
        reward=torch.zeros(B, n, dtype=torch.float64),
        behaviour=behaviour,
        finished=torch.ones(B, n, dtype=torch.bool),
        value=torch.zeros(B, n, T, dtype=torch.float64),
        returns=torch.zeros(B, n, T, dtype=torch.float64),
        advantage=advantage,
    )


@pytest.fixture
def fixed(numbers: Any) -> Any:
    """A policy of given log-probs [B, n, T], whose critic says 0."""

    class Fixed(numbers):
        def critic(self) -> nn.Module:
            return Zero(torch.zeros_like(self.values))

    class Zero(numbers):
        def forward(self, groups: Groups) -> Tensor:
            return self.logps(groups)

    return Fixed


def test_8_on_the_first_batch_the_loss_is_0_and_its_gradient_that_of_the_policy(fixed: Any, prepared: Any) -> None:
    length = [[2, 4], [3, 1]]
    mask = torch.arange(4) < torch.tensor(length)[..., None]
    logps = -torch.rand(2, 2, 4, dtype=torch.float64) * mask
    A = whitened(torch.randn(2, 2, 4, dtype=torch.float64), mask)
    policy = fixed(logps.clone())
    method = prepared(PPO(), policy=policy, reward=None, reference=None)
    losses, metrics = method.loss(rollouts(length, logps, A))
    assert losses.mean().item() == pytest.approx(0, abs=1e-15)
    assert metrics["clip/fraction"].tolist() == metrics["policy/approx_kl"].tolist() == [0, 0]
    losses.mean().backward()
    torch.testing.assert_close(policy.values.grad, -A / mask.sum(), rtol=1e-12, atol=0)


def test_a_critic_that_is_far_off_does_not_mute_the_policy(fixed: Any, prepared: Any) -> None:
    length, zeros = [[1, 3], [3, 1]], torch.zeros(2, 2, 3, dtype=torch.float64)
    A = torch.tensor([[[1.0, 0, 0], [-1, 2, 1]], [[-3, 1, 1], [2, 0, 0]]], dtype=torch.float64)
    batch = replace(rollouts(length, zeros, A), returns=zeros + 1e6)
    method = prepared(PPO(), policy=fixed(zeros.clone()), reward=None, reference=None)
    method._sharded = False
    method.loss(batch)[0].mean().backward()
    expected = method.policy.values.grad.clone()
    method._clipped(1e3)
    torch.testing.assert_close(method.policy.values.grad, expected)
    assert method.critic.values.grad.norm().item() == pytest.approx(1e3)


def test_every_token_of_a_batch_weighs_the_same(fixed: Any, prepared: Any) -> None:
    """Errors of 1 in responses of 1 token and of 2 in those of 3: the mean over the tokens, not over responses."""
    length = [[1, 3], [3, 1]]
    returns = torch.where(torch.tensor(length)[..., None] == 3, 2.0, 1.0).expand(2, 2, 3).double()
    zeros = torch.zeros(2, 2, 3, dtype=torch.float64)
    batch = replace(rollouts(length, zeros, zeros), returns=returns)
    method = prepared(PPO(vf_coef=1.0), policy=fixed(zeros.clone()), reward=None, reference=None)
    assert method.loss(batch)[0].mean().item() == pytest.approx(0.5 * (2 * 1 + 6 * 4) / 8)
    parts = torch.cat([method.loss(part)[0] for part in batch.split(1)])
    assert parts.mean().item() == pytest.approx(0.5 * (2 * 1 + 6 * 4) / 8)


def test_9_padding_changes_no_advantage_return_or_whitening() -> None:
    reward, value, pad = row(0, 0, 1), row(0.5, 0.4, 0.3), row(7, 7)
    longer = torch.cat([ALL, torch.zeros(1, 2, dtype=torch.bool)], -1)
    plain = gae(reward, value, ALL)
    padded = gae(torch.cat([reward, pad], -1), torch.cat([value, pad], -1), longer)
    for short, long in zip(plain, padded, strict=True):
        assert torch.equal(short, long[:, :3])
    assert torch.equal(whitened(plain[0], ALL), whitened(padded[0], longer)[:, :3])


def test_the_critic_is_said_to_explain_what_it_foresaw() -> None:
    returns = row(1, 2, 3)
    assert explained(returns, returns, ALL).item() == 1
    assert explained(torch.full_like(returns, 7.0), returns, ALL).item() == pytest.approx(0)
    assert explained(-returns, returns, ALL).item() == pytest.approx(-3)


# A bed whose optimum is known: 8 prompts, two tokens of 6, both policies and rewards at random


class TwoTokens(nn.Module):
    """pi(y_1, y_2 | x) of a free table of logits [8, 6] and [8, 6, 6]."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(8, 6, generator=random, dtype=torch.float64))
        self.second = nn.Parameter(torch.randn(8, 6, 6, generator=random, dtype=torch.float64))

    def whole(self) -> Tensor:
        """[8, 6, 6] log-probs of whole responses."""
        return self.first.log_softmax(-1)[..., None] + self.second.log_softmax(-1)

    def logps(self, groups: Groups) -> Tensor:
        x, (a, b) = groups.prompt[:, :1], groups.response.unbind(-1)
        return torch.stack([self.first.log_softmax(-1)[x, a], self.second.log_softmax(-1)[x, a, b]], -1)

    def sample(self, prompts: Groups, n: int, generator: torch.Generator | None = None) -> Groups:
        x = prompts.prompt[:, :1].expand(-1, n)
        a = draw(self.first.log_softmax(-1)[x], generator)
        b = draw(self.second.log_softmax(-1)[x, a], generator)
        return replace(prompts, response=torch.stack([a, b], -1), length=torch.full_like(a, 2))

    def finished(self, groups: Groups) -> Tensor:
        return torch.ones_like(groups.length, dtype=torch.bool)

    def critic(self) -> nn.Module:
        return TwoValues()


class TwoValues(nn.Module):
    """A value before each token: [8] and [8, 6]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(8, dtype=torch.float64))
        self.second = nn.Parameter(torch.zeros(8, 6, dtype=torch.float64))

    def forward(self, groups: Groups) -> Tensor:
        x, a = groups.prompt[:, :1], groups.response[..., 0]
        return torch.stack([self.first[x].expand(a.shape), self.second[x, a]], -1)


class Rewards(Scorer):
    """[8, 6, 6] N(0, 1)."""

    def __init__(self, seed: int) -> None:
        self.values = torch.randn(8, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def score(self, groups: Groups) -> Tensor:
        return self.values[groups.prompt[:, :1], groups.response[..., 0], groups.response[..., 1]]


def prompts(count: int, tokens: Callable[[int], list[int]] = lambda i: [i]) -> prefopt.table.Table:
    return prefopt.table.Table(
        kind=Prompts,
        ids=np.array([f"prompt-{i}" for i in range(count)]),
        prompt=Ragged.of([tokens(i) for i in range(count)]),
        response=Ragged.of([]),
    )


def gained(seed: int, paid: float, judged: float = 0.5, rounds: int = 150) -> tuple[float, float]:
    """Of a run: (J(pi) - J(ref)) / (J(pi*) - J(ref)) with J = E r - judged KL, and KL(pi || ref), after PPO
    that pays `paid` for a nat."""
    method, policy, reward = (
        PPO(samples=16, prompts=16, beta=paid, normalise=False),
        TwoTokens(seed),
        Rewards(seed + 50),
    )
    reference = frozen_copy(policy)
    method.prepare(
        {"policy": policy, "reward": reward, "reference": reference},
        optimizer=lambda p: torch.optim.Adam(p, lr=0.02, eps=1e-5),
        schedule=lambda step: 1 - step / (4 * rounds),
        micro_batch_size=None,
        clip=None,
        seed=seed,
    )
    [optimizer], [scheduler] = method.configure_optimizers()
    for round in range(rounds):
        batch = method.collect(prompts(8), round).batch(np.arange(16))
        for _ in range(method.passes):
            optimizer.zero_grad()
            method.loss(batch)[0].mean().backward()
            optimizer.step()
            scheduler.step()
    with torch.no_grad():
        law, ref, r = policy.whole(), reference.whole(), reward.values
        kl = (law.exp() * (law - ref)).sum((1, 2)).mean()
        J = (law.exp() * r).sum((1, 2)).mean() - judged * kl
        start, best = (ref.exp() * r).sum((1, 2)).mean(), judged * (ref + r / judged).logsumexp((1, 2)).mean()
    return float((J - start) / (best - start)), float(kl)


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_the_optimal_policy_and_without_the_price_of_kl_it_does_not(seed: int) -> None:
    score, kl = gained(seed, paid=0.5)
    unpaid, far = gained(seed, paid=0.0)
    assert score >= 0.98
    assert unpaid <= 0.6
    assert kl < far / 2


# On a small Llama


EOS = 2


class Counts(Scorer):
    """How often token 5 is said."""

    def score(self, groups: Groups) -> Tensor:
        return ((groups.response == 5) & groups.mask).sum(-1).float()


@pytest.fixture(scope="module")
def llama() -> CausalPolicy:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=9, eos_token_id=EOS, initializer_range=0.4, tie_word_embeddings=True, **shape)
    tokenizer = SimpleNamespace(eos_token_id=EOS)
    return CausalPolicy(LlamaForCausalLM(config).eval(), tokenizer, max_response_length=6)


@pytest.fixture
def on_text(llama: CausalPolicy, prepared: Any) -> Callable[..., PPO]:
    """PPO on the Llama, whose reference is another one."""
    policy, reference = frozen_copy(llama).requires_grad_(True), frozen_copy(llama)
    for weights in reference.parameters():
        weights.mul_(0.9)

    def make(reward: Scorer | None = None, **settings: Any) -> PPO:
        method = PPO(**{"samples": 3, "prompts": 40, **settings})
        return prepared(method, policy=policy, reference=reference, reward=reward or Counts())

    return make


TEXTS = prompts(40, lambda i: [1, *[3 + (i * k) % 6 for k in range(1, 2 + i % 4)]])


def test_what_it_collects_is_made_of_the_log_probs_the_critic_and_the_reward(on_text: Any) -> None:
    method = on_text(beta=0.3, lam=0.9)
    nn.init.normal_(method.critic.head.weight, generator=torch.Generator().manual_seed(0))
    batch = method.collect(TEXTS, 0).batch(np.arange(40))
    with torch.no_grad():
        torch.testing.assert_close(batch.behaviour, method.policy.logps(batch))
        torch.testing.assert_close(batch.reference, method.reference.logps(batch))
        torch.testing.assert_close(batch.value, method.critic(batch))
    said = Counts().score(batch)
    torch.testing.assert_close(batch.reward, said)
    ended = batch.response.gather(-1, batch.length[..., None] - 1)[..., 0] == EOS
    assert torch.equal(batch.finished, ended) and 0 < ended.sum() < ended.numel()
    assert torch.equal(ended, ~((batch.length == 6) & (batch.response[..., -1] != EOS)))
    score = (said - said.mean()) / said.std(correction=0) - 1.0 * ~ended
    rewards = kl_rewards(batch.behaviour, batch.reference, score, batch.mask, 0.3)
    advantage, returns = gae(rewards, batch.value, batch.mask, lam=0.9)
    torch.testing.assert_close(batch.returns, returns)
    torch.testing.assert_close(batch.advantage, whitened(advantage, batch.mask))
    assert float(method.kl) == pytest.approx(float((batch.behaviour - batch.reference).sum(-1).mean()), abs=1e-6)


def test_whitened_rewards_keep_their_mean(on_text: Any) -> None:
    plain, white = (on_text(whiten_rewards=on, lam=1.0).collect(TEXTS, 0).batch(np.arange(40)) for on in (False, True))
    rewards = plain.returns - torch.nn.functional.pad(plain.returns[..., 1:], (0, 1))
    expected, _ = gae(whitened(rewards, plain.mask, shift_mean=False), plain.value, plain.mask, lam=1.0)
    torch.testing.assert_close(white.returns, expected, rtol=1e-4, atol=1e-4)


def test_8_the_ratio_is_1_on_the_first_batch_of_a_round(on_text: Any) -> None:
    method = on_text()
    table = method.collect(TEXTS, 0)
    for rows in (np.arange(40), np.array([31, 4, 17])):
        batch = table.batch(rows)
        ratio = (method.policy.logps(batch) - batch.behaviour).exp()
        assert (ratio - 1).abs().max() <= 1e-5
    batch = table.batch(np.arange(40))
    losses, _ = method.loss(batch)
    mask, value = batch.mask, method.vf_coef * 0.5 * batch.returns**2
    assert float(losses.detach().mean() - (value * mask).sum() / mask.sum()) == pytest.approx(0, abs=1e-5)


def test_the_moments_of_the_first_round_stay(on_text: Any) -> None:
    method = on_text()
    method.collect(TEXTS, 0)
    scale = method.scale.clone()
    method.collect(TEXTS, 1)
    assert torch.equal(method.scale, scale) and scale[1] != 1


def test_a_reward_in_its_own_units_is_taken_as_it_is(on_text: Any) -> None:
    method = on_text(normalise=False, beta=0.25, lam=1.0, missing_eos=0.5)
    batch = method.collect(TEXTS, 0).batch(np.arange(40))
    ratio = (batch.behaviour - batch.reference).sum(-1)
    torch.testing.assert_close(batch.returns[..., 0], batch.reward - 0.5 * ~batch.finished - 0.25 * ratio)
    assert (method.beta, on_text().beta) == (0.25, None)


def test_9_values_do_not_know_padding_or_the_batch_and_are_of_the_state_before_the_token(on_text: Any) -> None:
    method = on_text()
    critic: Critic = method.critic
    groups = method.collect(TEXTS, 0).batch(np.arange(40))
    with torch.no_grad():
        assert not critic(groups).any()
        nn.init.normal_(critic.head.weight, generator=torch.Generator().manual_seed(0))
        values = critic(groups)
        pad = torch.nn.functional.pad
        wider = replace(groups, prompt=pad(groups.prompt, (0, 3)), response=pad(groups.response, (0, 2)))
        torch.testing.assert_close(critic(wider)[..., :-2], values)
        assert not critic(wider)[..., -2:].any()
        torch.testing.assert_close(critic(groups.pick(slice(7, 9))), values[7:9])
        other = groups.response.clone()
        other[..., 2] = (other[..., 2] + 1) % 9
        changed = (critic(replace(groups, response=other)) - values).abs() > 1e-5
        assert not changed[..., :3].any()
        assert changed[..., 3:][groups.mask[..., 3:]].all()


def test_the_critic_is_no_part_of_the_policy_and_its_head_is_in_float32(llama: CausalPolicy, prepared: Any) -> None:
    small = frozen_copy(llama).requires_grad_(True).bfloat16()
    method = prepared(PPO(critic_lr=0.5), policy=small, reference=None, reward=Counts())
    assert {p.data_ptr() for p in small.parameters()}.isdisjoint(p.data_ptr() for p in method.critic.parameters())
    assert method.critic.head.weight.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert method.critic(small.sample(TEXTS.batch(np.arange(4)), 2)).dtype == torch.float32
    [optimizer], _ = method.configure_optimizers()
    policy, critic = optimizer.param_groups
    assert {id(p) for p in critic["params"]} == {id(p) for p in method.critic.parameters()}
    assert (critic["lr"], policy["lr"]) == (0.5, 1e-3)


# Bad input, steering, and resumption


class Broken(Scorer):
    def __init__(self, value: float) -> None:
        self.value = value

    def score(self, groups: Groups) -> Tensor:
        return torch.full(groups.length.shape, self.value)


@pytest.mark.parametrize("normalise", [True, False])
def test_a_reward_that_is_not_finite_is_refused(normalise: bool, on_text: Any) -> None:
    with pytest.raises(PrefoptError, match="120 of 120 responses a reward that is not finite"):
        on_text(Broken(math.nan), normalise=normalise).collect(TEXTS, 3 * (not normalise))


def test_a_reward_that_is_the_same_for_all_cannot_be_normalised(on_text: Any) -> None:
    with pytest.raises(PrefoptError, match="the same reward, 2"):
        on_text(Broken(2.0)).collect(TEXTS, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"beta": -0.1},
        {"lam": 1.1},
        {"gamma": math.nan},
        {"vf_coef": math.inf},
        {"target_kl": 0.0},
        {"reach": -1.0},
        {"samples": 0},
    ],
)
def test_numbers_out_of_range_are_refused_by_name(wrong: dict[str, float]) -> None:
    [(name, value)] = wrong.items()
    with pytest.raises(PrefoptError, match=f"method.{name}={value}"):
        PPO(**wrong)  # type: ignore[arg-type]


def test_the_price_is_steered_after_each_round(bandit: Data, prepared: Callable[..., Any]) -> None:
    policy = ExactPolicy(bandit.world, Free(bandit.world))
    method = prepared(
        PPO(samples=4, prompts=16, beta=0.15, target_kl=6.0), policy=policy, reference=policy, reward=Gold(bandit)
    )
    method.collect(bandit.train.pairs, 0)
    assert (float(method.price), float(method.kl)) == (0.15, 0)
    method.finish(0)
    assert float(method.price) == pytest.approx(0.149808, abs=1e-9)


RUN = (
    *("method=ppo", "method.prompts=12", "method.target_kl=0.01", "method.horizon=64", "rounds=3", "batch_size=4"),
    *("dataset=reviews", "dataset.pairs=24", "dataset.test_pairs=16", "dataset.length_weight=1"),
    *("dataset.demonstrations=24", "model=tiny", "model.vocabulary=300", "model.hidden_size=16"),
    *("model.layers=1", "model.heads=2", "evaluation.prompts=4", "evaluation.times=1", "evaluation.figures=false"),
    *("tracking=none", "trainer=cpu", "trainer.log_every=2"),
)


def test_stopped_in_mid_round_on_text_it_ends_as_if_it_never_was(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(composed(RUN))
    train = Method.training_step

    def training_step(self: Method, batch: Any, batch_idx: int) -> None:
        train(self, batch, batch_idx)
        if isinstance(self, PPO) and (self.current_epoch, batch_idx) == (1, 4):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setenv("PREFOPT_HOME", str(tmp_path / "other"))
    with monkeypatch.context() as patch:
        patch.setattr(Method, "training_step", training_step)
        with pytest.raises(Interrupted):
            run(composed(RUN))
    resumed = run(composed(RUN))
    assert resumed.folder != whole.folder
    ours, theirs = (
        torch.load(stored.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for stored in (whole, resumed)
    )
    assert {"price", "scale", "kl", "explained", "critic.head.weight"} <= ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert ours["price"] != 0.05 and ours["scale"][1] != 1
    weights = [load_file(stored.policy / "model.safetensors") for stored in (whole, resumed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_samples_of_different_widths_are_joined_with_zeros() -> None:
    whole = joined([torch.ones(1, 2, 1), torch.ones(2, 2, 3)])
    assert whole.shape == (3, 2, 3)
    assert whole[0].tolist() == [[1, 0, 0], [1, 0, 0]]
