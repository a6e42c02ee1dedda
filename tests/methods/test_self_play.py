"""GPO, SPPO and the update that they regress on (arXiv 2410.02197, 2405.00675), against numbers and enumeration."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prefopt.batch import Groups, Rated
from prefopt.datasets.data import Data
from prefopt.datasets.game import CERTAIN, Game
from prefopt.errors import PrefoptError
from prefopt.evaluation.game import played
from prefopt.methods.iterative.multiplicative_weights import MultiplicativeWeights
from prefopt.methods.iterative.payoff import log_odds, win_rate
from prefopt.methods.iterative.self_play import SelfPlay
from prefopt.models.exact import ExactPolicy, Linear, Table, everything
from prefopt.models.judge import Judge
from prefopt.models.model import Gold
from prefopt.models.scorer import Scorer

ROWS = [[0.0, 1.0, 2.0], [-1.0, 0.0, 0.5], [-2.0, -0.5, 0.0]]
CIRCLE = [[0, 2, -2, 1.5], [-2, 0, 2, 1.5], [2, -2, 0, 1.5], [-1.5, -1.5, -1.5, 0]]


def table(rows: Any = ROWS) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


class Says(Scorer):
    """Log-odds of every pair of an exact world's responses, in all contexts alike."""

    def __init__(self, rows: Any) -> None:
        self.rows = table(rows)

    def table(self, groups: Groups) -> Tensor:
        y = groups.response[..., 0]
        return self.rows[y[:, :, None], y[:, None, :]]


def game(rows: Any, reference: Any = None, contexts: int = 1) -> Data:
    return Game(preferences=table(rows).sigmoid().tolist(), reference=reference, pairs=60, contexts=contexts).load()


def start(data: Data) -> ExactPolicy:
    return ExactPolicy(data.world, Table(data.world))


def test_6_row_means_count_the_response_itself() -> None:
    s, p = (payoff(table()).mean(-1) for payoff in (log_odds, win_rate))
    assert s.tolist() == pytest.approx([1.0, -0.166667, -0.833333], abs=1e-6)
    assert float(s.sum()) == pytest.approx(0, abs=1e-15)
    assert (p + 0.5).tolist() == pytest.approx([0.703952, 0.463800, 0.332248], abs=1e-6)
    assert float((p + 0.5).sum()) == pytest.approx(1.5)


class Ratios(torch.nn.Module):
    """Log-probs [B, n, T] that are given."""

    def __init__(self, values: Any) -> None:
        super().__init__()
        self.values = torch.nn.Parameter(table(values))

    def logps(self, groups: Groups) -> Tensor:
        return self.values


def rated(reward: Any, length: Any = (1, 1)) -> Rated:
    """A group whose responses had log-probs 0 and earned `reward`."""
    longest = max(length)
    return Rated(
        index=torch.zeros(1, dtype=torch.long),
        prompt=torch.ones(1, 1, dtype=torch.long),
        prompt_length=torch.ones(1, dtype=torch.long),
        response=torch.ones(1, 2, longest, dtype=torch.long),
        length=torch.tensor([length]),
        mean_length=torch.tensor(1.0),
        reward=table([reward]),
        behaviour=torch.zeros(1, 2, longest, dtype=torch.float64),
    )


def loss(prepared: Any, batch: Rated, logps: Any, **settings: Any) -> float:
    method = prepared(SelfPlay(payoff=log_odds, **settings), policy=Ratios(logps), reward=None)
    return method.loss(batch)[0].item()


def test_7_the_losses_of_the_card(prepared: Any) -> None:
    lr = [[[0.2], [-0.1]]]
    assert loss(prepared, rated((1.2, -0.6)), lr, beta=0.5) == pytest.approx(3.025)
    assert loss(prepared, rated((0.77 - 0.5, 0.31 - 0.5)), lr, beta=0.5) == pytest.approx(0.097)


def test_log_ratios_are_sums_and_with_gamma_1_means(prepared: Any) -> None:
    batch, lr = rated((1.0, -1.0), (2, 1)), [[[0.2, 0.4], [-0.1, 0.0]]]
    summed, mean = (loss(prepared, batch, lr, beta=1.0, gamma=gamma) for gamma in (0.0, 1.0))
    assert summed == pytest.approx((0.4**2 + 0.9**2) / 2)
    assert mean == pytest.approx((0.7**2 + 0.9**2) / 2)


@given(ratio=st.floats(-5, 5), beta=st.floats(0.01, 10))
def test_8_where_nobody_wins_nobody_moves(prepared: Any, ratio: float, beta: float) -> None:
    lost = loss(prepared, rated((0.0, 0.0)), [[[ratio], [ratio]]], beta=beta)
    assert lost == pytest.approx(ratio**2)


def test_8_the_exact_update_of_the_card(prepared: Any) -> None:
    data = game(ROWS, reference=[0.5, 0.3, 0.2])
    policy = start(data)
    method = prepared(MultiplicativeWeights(payoff=log_odds, beta=1.0), policy=policy, reward=Gold(data))
    assert method.collect(data.train.pairs, 0) is None
    method.finish(0)
    assert policy.f.values[0].tolist() == pytest.approx([0.7, -0.4, -1.15])  # type: ignore[union-attr,index]
    assert policy.table()[0].exp().tolist() == pytest.approx([0.792005, 0.158181, 0.049813], abs=1e-6)
    log_z = (policy.reference + policy.f.values)[0].logsumexp(-1)  # type: ignore[operator]
    assert log_z.item() == pytest.approx(0.240040, abs=1e-6)


def after(prepared: Any, rounds: int, payoff: Any = log_odds, share: float = 1.0) -> dict[str, float]:
    """Figures of the game of the claim, from one start, at beta = share * sqrt(rounds)."""
    data = game(CIRCLE, reference=[0.4, 0.2, 0.1, 0.3])
    beta = share * math.sqrt(rounds)
    method = prepared(MultiplicativeWeights(payoff=payoff, beta=beta), policy=start(data), reward=Gold(data))
    for round in range(rounds):
        method.collect(data.train.pairs, round)
        method.finish(round)
    return played(data.world, method.policy.table(), beta=None, average=method.average())


@pytest.mark.parametrize(("rounds", "gap"), [(100, 0.196), (1000, 0.031)])
def test_the_average_policy_nears_the_equilibrium_as_on_the_card_and_the_last_does_not(
    prepared: Any, rounds: int, gap: float
) -> None:
    figures = after(prepared, rounds)
    assert figures["gap/average"] == pytest.approx(gap, abs=6e-4)
    assert figures["gap/last"] > 0.5
    assert sum(figures[f"game/average/{y}"] for y in range(4)) == pytest.approx(1)


def test_with_win_rates_it_nears_it_too(prepared: Any) -> None:
    assert after(prepared, 1000, win_rate, share=0.25)["gap/average"] < 0.06


def test_only_contexts_of_the_data_are_updated(prepared: Any) -> None:
    data = game(ROWS, reference=[0.5, 0.3, 0.2])
    method = prepared(MultiplicativeWeights(payoff=log_odds), policy=start(data), reward=Gold(data))
    method.collect(data.train.pairs, 0)
    method.finish(0)
    assert bool(method.policy.f.values[0].all()) and not bool(method.policy.f.values[1:].any())


def test_multiplicative_weights_need_one_number_a_response(prepared: Any, bandit: Data) -> None:
    policy = ExactPolicy(bandit.world, Linear(bandit.world))
    method = prepared(MultiplicativeWeights(payoff=log_odds), policy=policy, reward=Gold(bandit))
    with pytest.raises(PrefoptError, match="one number a response"):
        method.collect(bandit.train.pairs, 0)


# Own samples


def collected(prepared: Any, reward: Scorer, **settings: Any) -> tuple[SelfPlay, Rated]:
    data = game(ROWS, reference=[0.5, 0.3, 0.2])
    method = prepared(SelfPlay(**{"payoff": log_odds, "prompts": 64, **settings}), policy=start(data), reward=reward)
    own: Any = method.collect(data.train.pairs, 0).batch(np.arange(64))
    return method, own


def test_all_samples_earn_their_row_means_and_start_at_no_distance(prepared: Any) -> None:
    method, own = collected(prepared, Says(ROWS), extremes=False, samples=6, beta=2.0)
    y = own.response[..., 0]
    assert y.shape == (64, 6)
    expected = table()[y[:, :, None], y[:, None, :]].mean(-1)
    torch.testing.assert_close(own.reward, expected)
    torch.testing.assert_close(own.reward.sum(1), torch.zeros(64, dtype=torch.float64))
    torch.testing.assert_close(own.behaviour, method.policy.logps(own).detach())
    torch.testing.assert_close(method.loss(own)[0], ((expected / 2) ** 2).mean(1))


def test_the_best_and_the_worst_are_kept_with_what_they_earned_among_all(prepared: Any) -> None:
    _, every = collected(prepared, Says(ROWS), extremes=False)
    method, own = collected(prepared, Says(ROWS))
    assert own.response.shape == (64, 2, 1)
    ends = torch.stack([every.reward.amax(1), every.reward.amin(1)], 1)
    assert torch.equal(own.reward, ends)
    y, drawn = own.response[..., 0], every.response[..., 0]
    assert all(int(a) in row for pair, row in zip(y, drawn.tolist(), strict=True) for a in pair)
    torch.testing.assert_close(own.behaviour, method.policy.logps(own).detach())


def test_scores_of_a_preference_model_are_log_odds_at_its_temperature(prepared: Any) -> None:
    _, plain = collected(prepared, Says(ROWS))
    _, scaled = collected(prepared, Says(ROWS), payoff=partial(log_odds, scale=0.1))
    torch.testing.assert_close(scaled.reward, 0.1 * plain.reward)


def test_rounds_are_played_against_the_policy_of_their_beginning(prepared: Any) -> None:
    """And a round of many samples, all kept, moves a policy that is fitted to it as the exact update would."""
    data = game(ROWS, reference=[0.5, 0.3, 0.2])
    method = prepared(
        SelfPlay(payoff=log_odds, beta=2.0, samples=400, extremes=False, prompts=60),
        policy=start(data),
        reward=Gold(data),
    )
    exact = prepared(MultiplicativeWeights(payoff=log_odds, beta=2.0), policy=start(data), reward=Gold(data))
    exact.collect(data.train.pairs, 0)
    for round in range(2):
        own: Any = method.collect(data.train.pairs, round).batch(np.arange(60))
        optimizer = torch.optim.LBFGS(method.policy.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def closure(own: Any = own, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            lost = method.loss(own)[0].mean()
            lost.backward()
            return lost

        optimizer.step(closure)
        exact.finish(round)
        torch.testing.assert_close(method.policy.table()[0].exp(), exact.policy.table()[0].exp(), rtol=0, atol=0.02)
    torch.testing.assert_close(method.average()[0].exp(), exact.average()[0].exp(), rtol=0, atol=0.02)


BROKEN = {
    "nan": ([[0.0, math.nan, 0.0], [math.nan, 0.0, 0.0], [0.0, 0.0, 0.0]], "not finite"),
    "infinite": ([[0.0, math.inf, 0.0], [-math.inf, 0.0, 0.0], [0.0, 0.0, 0.0]], "not finite"),
    "constant": ([[0.0] * 3] * 3, "prefers none"),
}


@pytest.mark.parametrize(("rows", "says"), BROKEN.values(), ids=BROKEN)
def test_a_scorer_that_says_nothing_or_nonsense_is_refused(prepared: Any, rows: Any, says: str) -> None:
    with pytest.raises(PrefoptError, match=says):
        collected(prepared, Says(rows))
    data = game(ROWS)
    exact = prepared(MultiplicativeWeights(payoff=log_odds), policy=start(data), reward=Says(rows))
    with pytest.raises(PrefoptError, match=says):
        exact.collect(data.train.pairs, 0)


def test_a_policy_that_says_one_thing_only_is_no_fault_of_the_scorer(prepared: Any) -> None:
    data = game(ROWS, reference=[1 - 2e-12, 1e-12, 1e-12])
    method = prepared(SelfPlay(payoff=log_odds, prompts=8), policy=start(data), reward=Says([[0.0] * 3] * 3))
    assert not method.collect(data.train.pairs, 0).columns["reward"].any()


@pytest.mark.parametrize("wrong", [{"beta": 0.0}, {"beta": math.nan}, {"samples": 1}], ids=str)
def test_a_setting_out_of_range_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(PrefoptError, match=f"method.{next(iter(wrong))}="):
        SelfPlay(payoff=log_odds, **wrong)


# The gold preferences of a game


def test_a_game_is_judged_by_its_own_preferences_and_certain_ones_are_finite() -> None:
    rows = [[0.5, 1.0, 0.4], [0.0, 0.5, 0.9], [0.6, 0.1, 0.5]]
    data = Game(preferences=rows, pairs=60).load()
    found = Gold(data).table(everything(1, 3))[0]
    assert torch.equal(found.diag(), torch.zeros(3, dtype=torch.float64))
    assert found[0, 1].item() == pytest.approx(math.log((1 - CERTAIN) / CERTAIN))
    assert found[0, 2].item() == pytest.approx(math.log(0.4 / 0.6))
    torch.testing.assert_close(found, -found.mT)


def test_a_judge_of_a_game_prefers_round_in_circles() -> None:
    """2 is preferred to 0 although its chances against the reference are the lower ones."""
    data = Game(preferences=[[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]], pairs=60).load()
    pairs = data.train.pairs
    labels = Judge(Gold(data), temperature=1.0, noise=None, seed=0)(pairs)
    assert np.array_equal(labels, data.train.truth.label)


@pytest.mark.parametrize("wrong", [[0.5, 0.5], [0.5, 0.5, 0.0], [0.5, 0.4, 0.2], [2.0, -0.5, -0.5]], ids=str)
def test_a_reference_that_is_no_law_is_refused(wrong: list[float]) -> None:
    with pytest.raises(PrefoptError, match=r"dataset\.reference="):
        Game(preferences=table().sigmoid().tolist(), reference=wrong)


def test_a_reference_can_be_drawn() -> None:
    laws = [Game(preferences=table().sigmoid().tolist(), reference="drawn", seed=seed).reference for seed in (1, 1, 2)]
    assert np.array_equal(laws[0], laws[1]) and not np.array_equal(laws[0], laws[2])
    assert laws[0].sum() == pytest.approx(1)
