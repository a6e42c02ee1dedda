"""Gold against proxy: by enumeration, by samples, and what is left out where there is no proxy."""

import json
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prefopt.config import composed
from prefopt.datasets.data import Data
from prefopt.engine.best import best_of_n, favourite, sizes
from prefopt.errors import PrefoptError
from prefopt.evaluation.exact import best_law, enumerated
from prefopt.evaluation.proxy import enumerated_curve, sampled_curve, standardised
from prefopt.evaluation.subject import Subject
from prefopt.evaluation.suite import Suite
from prefopt.methods.selection.best_of_n import BestOfN
from prefopt.methods.selection.gibbs import Gibbs
from prefopt.models.exact import ExactPolicy, ExactReward, Table, everything
from prefopt.models.model import Gold
from prefopt.run import run

CONTEXTS, RESPONSES = 6, 5


def drawn(seed: int) -> Tensor:
    return torch.randn(CONTEXTS, RESPONSES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def start(bandit: Data) -> ExactPolicy:
    """Not the uniform one."""
    policy = ExactPolicy(bandit.world, Table(bandit.world)).requires_grad_(False)
    policy.f.values.copy_(drawn(1))  # type: ignore[operator, union-attr]
    return policy


@pytest.fixture
def proxy(bandit: Data) -> ExactReward:
    """Gold and as much noise, in a unit of its own."""
    reward = ExactReward(Table(bandit.world)).requires_grad_(False)
    reward.f.values.copy_(40 * (bandit.world.rewards + drawn(2)) - 7)  # type: ignore[operator, union-attr]
    return reward


class Unlisted:
    """A policy that gives samples and nothing else, as one of text."""

    def __init__(self, policy: ExactPolicy) -> None:
        self.sample, self.logps = policy.sample, policy.logps


def table(reward: ExactReward) -> Tensor:
    return reward.score(everything(CONTEXTS, RESPONSES))


def best(start: Any, reward: Any, samples: int) -> Subject:
    return Subject(act=None, score=None, policy=None, start=start, reward=reward, samples=samples)


# Best of n


def test_a_curve_has_the_powers_of_two_and_its_end() -> None:
    assert [sizes(n) for n in (1, 2, 6, 16)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8, 16]]


def test_of_equals_the_later_one_is_the_best_whoever_chooses(
    bandit: Data, start: ExactPolicy, prepared: Callable[..., Any]
) -> None:
    proxy = torch.tensor([[1.0, 3.0, 3.0, 2.0]])
    assert float(best_of_n(proxy, torch.arange(4.0)[None], 4)) == favourite(proxy) == 2
    method = prepared(BestOfN(samples=4), policy=start, reward=Gold(bandit))
    method.reward = type("Flat", (), {"score": lambda self, groups: torch.zeros(groups.length.shape)})()
    prompts = bandit.test.pairs.batch(np.arange(8))
    kept, all_ = method.act(prompts, 3, method.generator(1)), start.sample(prompts, 12, method.generator(1))
    assert torch.equal(kept.response, all_.response[:, 3::4])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_law_of_the_best_is_the_sum_over_all_draws(n: int) -> None:
    """Ties among responses too: the later draw of equals is kept."""
    logps = drawn(3)[:1].log_softmax(-1)
    proxy = torch.tensor([[2.0, 1.0, 2.0, 0.0, 1.0]]).double()
    expected = torch.zeros(RESPONSES, dtype=torch.float64)
    for draws in product(range(RESPONSES), repeat=n):
        expected[draws[int(favourite(proxy[0, list(draws)]))]] += logps[0, list(draws)].sum().exp()
    torch.testing.assert_close(best_law(logps, proxy, n)[0].exp(), expected)


@pytest.mark.parametrize("steepness", [1, 2000])
def test_the_law_of_the_best_stays_finite(steepness: int) -> None:
    """Also where hardly anything is left to chance, and where the start itself rules responses out."""
    law = best_law((steepness * drawn(3)).log_softmax(-1), drawn(4), 12500)
    assert law.isfinite().all()
    torch.testing.assert_close(law.exp().sum(-1), torch.ones(CONTEXTS).double())
    if steepness == 1:
        assert torch.equal(law.argmax(-1), drawn(4).argmax(-1))


def test_enumeration_is_what_samples_tend_to(bandit: Data, start: ExactPolicy, proxy: ExactReward) -> None:
    copies, N = 400, 8
    prompts = bandit.train.pairs.batch(np.unique(bandit.train.pairs.prompt.values, return_index=True)[1])
    batch = start.sample(prompts, copies * N, torch.Generator().manual_seed(0))
    by, gold = (r.view(CONTEXTS * copies, N) for r in (proxy.score(batch), Gold(bandit).score(batch)))
    rewards = {"gold": bandit.world.rewards, "proxy": table(proxy)}  # type: ignore[union-attr]
    exact = enumerated_curve(start.table(), table(proxy), rewards, N)
    for name, r in (("gold", gold), ("proxy", by)):
        for n in sizes(N):
            found = best_of_n(by, r, n)
            assert abs(found.mean() - exact[f"best_of/{n}/{name}"]) < 4 * found.std() / math.sqrt(len(found))
            assert sampled_curve(by, {name: r})[f"best_of/{n}/{name}"] == pytest.approx(float(found.mean()))
    for n in sizes(N):
        assert exact[f"best_of/{n}/kl"] <= sampled_curve(by, {})[f"best_of/{n}/kl_bound"] + 1e-12


def test_the_curve_ends_in_what_best_of_n_answers(
    bandit: Data, start: ExactPolicy, proxy: ExactReward, prepared: Callable[..., Any]
) -> None:
    N = 6
    examination = Suite(batch_size=4).examine(best(start, proxy, N), bandit, rate=None)
    listed = examination.after()
    examination = Suite(batch_size=4).examine(
        Subject(
            act=lambda *_: pytest.fail("answers were there"),
            score=None,
            policy=None,
            start=Unlisted(start),
            reward=proxy,
            samples=N,
        ),
        bandit,
        rate=None,
    )
    figures = examination.after()
    for found in (listed, figures):
        for name in ("gold", "proxy"):
            assert found[f"best_of/{N}/{name}"] == pytest.approx(found[f"{name}/standardised"])
            assert found[f"best_of/1/{name}"] == pytest.approx(0, abs=1e-12)
    assert listed[f"best_of/{N}/kl"] < figures["gold/kl_bound"] == figures[f"best_of/{N}/kl_bound"]
    method = prepared(BestOfN(samples=N), policy=start, reward=proxy)
    generator = torch.Generator().manual_seed(0)
    answers = [method.act(bandit.test.pairs.batch(rows), 1, generator) for rows in np.split(examination.rows, [4])]
    assert examination.answers is not None
    for ours, theirs in zip(examination.answers.batches, answers, strict=True):
        assert torch.equal(ours.response, theirs.response)


def test_no_samples_leave_nothing_to_choose_from() -> None:
    with pytest.raises(PrefoptError, match=r"method\.samples=0"):
        BestOfN(samples=0)


# Standardised rewards


def test_a_reward_has_mean_0_and_deviation_1_under_the_law_of_the_start(start: ExactPolicy, proxy: ExactReward) -> None:
    law = start.table().exp() / CONTEXTS
    scaled = standardised({"proxy": table(proxy)}, {"proxy": table(proxy)}, start.table().exp())["proxy"]
    assert float((law * scaled).sum()) == pytest.approx(0, abs=1e-12)
    assert float((law * scaled**2).sum()) == pytest.approx(1)
    assert torch.allclose(scaled, standardised(*[{"proxy": 3 * table(proxy) + 5}] * 2, start.table().exp())["proxy"])


def test_a_reward_that_is_the_same_for_all_answers_has_no_unit_and_one_that_is_not_finite_is_an_error() -> None:
    flat, some = torch.ones(4, 1), torch.arange(4.0)[:, None]
    assert standardised({"gold": some, "proxy": some}, {"gold": flat, "proxy": some}).keys() == {"proxy"}
    assert standardised({"gold": some, "proxy": some}, {"gold": some, "proxy": flat}).keys() == {"gold"}
    for lost in (torch.nan, torch.inf):
        with pytest.raises(PrefoptError, match="1 of 4 responses a reward that is not finite"):
            standardised({"proxy": some}, {"proxy": torch.where(some == 2, lost, some)})


@pytest.mark.parametrize("listed", [True, False])
def test_a_policy_is_measured_in_deviations_of_its_start(
    bandit: Data, start: ExactPolicy, proxy: ExactReward, listed: bool
) -> None:
    """The start itself is at 0, and another where the plain figures say."""
    policy = ExactPolicy(bandit.world, Table(bandit.world))
    places: list[Any] = [policy, start] if listed else [Unlisted(policy), Unlisted(start)]
    for which, subject in enumerate(places):
        examined = Suite().examine(
            Subject(act=subject.sample, score=None, policy=subject, start=places[1], reward=proxy), bandit, rate=None
        )
        found = examined.during()
        if which == 1:
            assert [found[f"{name}/standardised"] for name in ("gold", "proxy")] == pytest.approx([0, 0], abs=1e-12)
            continue
        if listed:
            law = start.table().exp() / CONTEXTS
            gold: Tensor = bandit.world.rewards  # type: ignore[union-attr]
            mean = float((law * gold).sum())
            sd = float((law * (gold - mean) ** 2).sum().sqrt())
        else:
            gold = torch.tensor(examined.start_answers.gold)
            mean, sd = float(gold.mean()), float(gold.std(correction=0))
        assert found["gold/standardised"] == pytest.approx((found["gold/reward"] - mean) / sd)


def test_what_optimises_gold_has_no_proxy(bandit: Data, start: ExactPolicy) -> None:
    for subject in (
        best(start, Gold(bandit), 4),
        Subject(act=start.sample, score=None, policy=start, start=start, reward=Gold(bandit)),
        Subject(act=start.sample, score=None, policy=start, start=start),
    ):
        found = Suite().examine(subject, bandit, rate=None).after()
        assert "gold/reward" in found and not any("proxy" in name for name in found)


# Gibbs at a stated KL


def solved(bandit: Data, proxy: ExactReward, prepared: Callable[..., Any], **given: Any) -> Tensor:
    policy = ExactPolicy(bandit.world, Table(bandit.world))
    prepared(Gibbs(**given), policy=policy, reward=proxy).finish(0)
    return policy.table().detach()


@pytest.mark.parametrize("kl", [1e-3, 0.5, 1.5])
def test_gibbs_goes_as_far_as_it_is_told(
    bandit: Data, proxy: ExactReward, prepared: Callable[..., Any], kl: float
) -> None:
    policy, r = solved(bandit, proxy, prepared, beta=None, kl=kl), table(proxy)
    assert enumerated(bandit.world, policy, beta=None)["gold/kl"] == pytest.approx(kl, rel=1e-9)
    slope = (policy - policy[:, :1])[:, 1:] / (r - r[:, :1])[:, 1:]
    torch.testing.assert_close(slope, slope[:1, :1].expand_as(slope))


def test_gibbs_cannot_go_further_than_its_reward_takes_it(
    bandit: Data, proxy: ExactReward, prepared: Callable[..., Any]
) -> None:
    most = math.log(RESPONSES)
    for kl in (most, 0.0, -1.0):
        with pytest.raises(PrefoptError, match=r"more than 0 and less than 1\.61 nats"):
            solved(bandit, proxy, prepared, beta=None, kl=kl)
    proxy.f.values.fill_(3.0)  # type: ignore[operator, union-attr]
    with pytest.raises(PrefoptError, match="less than 0 nats"):
        solved(bandit, proxy, prepared, beta=None, kl=1.0)


@pytest.mark.parametrize("given", [{"beta": 0.1, "kl": 1.0}, {"beta": None}])
def test_gibbs_is_told_either_a_price_or_a_distance(given: dict[str, Any]) -> None:
    with pytest.raises(PrefoptError, match=r"method\.beta=null method\.kl=4"):
        Gibbs(**given)


def test_the_optimal_policy_regrets_nothing_whatever_the_temperature_of_the_labels(home: Path) -> None:
    bandit = ["dataset=bandit", "dataset.temperature=0.1", "model=tabular", "method=gibbs", "noise=none"]
    few = ["method.needs.reward=gold", "trainer=cpu", "tracking=none", "evaluation.figures=false"]
    stored = run(composed([*bandit, *few]))
    assert json.loads(stored.results.read_text())["figures"]["regret"] == pytest.approx(0, abs=1e-9)


def test_a_reward_that_rounding_alone_tells_apart_has_no_unit() -> None:
    flat = torch.tensor([[0.7], [0.7000001]])
    assert standardised({"proxy": flat}, {"proxy": flat}) == {}
