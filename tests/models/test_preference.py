"""Preferences from embeddings (arXiv 2410.02197): worked numbers, and what holds of any."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prefopt.errors import PrefoptError
from prefopt.models.exact import ExactModel, Linear, Network, Steps, Table, everything
from prefopt.models.preference import Form, Preference, form_of, scores

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")
PAIRS: Any = SimpleNamespace(n=2)
ANY: Any = SimpleNamespace(n=4)
seeds = st.integers(0, 2**31)


def vectors(*rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def skew(v: Tensor, lam: Tensor | None = None) -> Tensor:
    return scores(v, v, lam)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Fixed:
    """Embeddings and prompt states that are given."""

    width = 3

    def __init__(self, v: Tensor, states: Tensor | None = None) -> None:
        self.v, self.states = v, states

    def embedded(self, groups: Any) -> tuple[Tensor, Tensor | None]:
        return self.v, self.states


def test_1_the_first_is_turned_and_not_the_second() -> None:
    """v_i^T R v_j would be +4."""
    s = skew(vectors((1, 2, -1, 0.5), (0.5, -1, 2, 1)))
    assert s.tolist() == [[0.0, -4.0], [4.0, 0.0]]


def test_2_a_reward_and_a_one_are_bradley_terry() -> None:
    assert skew(vectors((1.3, 1), (0.4, 1)))[0, 1].item() == pytest.approx(0.9)


@given(seed=seeds)
def test_so_is_every_table_of_rewards(seed: int) -> None:
    r = drawn(seed, 2, 5)
    v = torch.stack([r, torch.ones_like(r)], -1)
    torch.testing.assert_close(skew(v), r[:, :, None] - r[:, None, :])


def test_3_three_unit_vectors_go_round() -> None:
    angles = torch.tensor([0, 2, 4], dtype=torch.float64) * math.pi / 3
    v = torch.stack([angles.cos(), angles.sin()], -1)
    log_odds = Preference(Fixed(v[None]), Form(2, tau=0.1)).table(ANY)[0]
    around = log_odds[[0, 1, 2], [1, 2, 0]]
    assert (0.1 * around).tolist() == pytest.approx([0.866025] * 3, abs=1e-6)
    assert around.sigmoid().tolist() == pytest.approx([0.999827] * 3, abs=1e-6)


def realising(P: Tensor) -> Tensor:
    """Embeddings whose scores are the skew-symmetric P: a_i = e_i, b_i = -P_i / 2."""
    return torch.stack([torch.eye(len(P), dtype=P.dtype), -P / 2], -1).flatten(1)


def test_4_the_matrix_of_the_card_is_realised() -> None:
    P = vectors((0, 1, -2), (-1, 0, 3), (2, -3, 0))
    assert torch.equal(skew(realising(P)), P)


@given(seed=seeds, n=st.integers(1, 6))
def test_4_so_is_every_skew_symmetric_matrix(seed: int, n: int) -> None:
    half = drawn(seed, n, n)
    torch.testing.assert_close(skew(realising(half - half.mT)), half - half.mT)


@given(seed=seeds, n=st.integers(1, 6), k=st.integers(1, 4), weighed=st.booleans())
def test_scores_are_skew_symmetric_to_the_bit(seed: int, n: int, k: int, weighed: bool) -> None:
    s = skew(drawn(seed, 2, n, 2 * k), drawn(seed + 1, 2, k) if weighed else None)
    assert s.shape == (2, n, n)
    assert torch.equal(s, -s.mT)


def turned(v: Tensor, angle: float) -> Tensor:
    """Every plane by the same angle."""
    a, b = v[..., 0::2], v[..., 1::2]
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


@given(seed=seeds, angle=st.floats(-7, 7), k=st.integers(1, 4))
def test_5_turning_all_planes_alike_changes_nothing(seed: int, angle: float, k: int) -> None:
    v, lam = drawn(seed, 2, 4, 2 * k), drawn(seed + 1, 2, k)
    torch.testing.assert_close(skew(turned(v, angle), lam), skew(v, lam))
    quarter = turned(v, math.pi / 2)
    torch.testing.assert_close(quarter.norm(dim=-1), v.norm(dim=-1))
    torch.testing.assert_close((quarter[:, :, None] * v[:, None]).sum(-1), skew(v))


@given(seed=seeds, k=st.integers(1, 4))
def test_a_gate_bounds_scores_by_its_largest_weight_whatever_the_length_of_embeddings(seed: int, k: int) -> None:
    v, states = 100 * drawn(seed, 2, 4, 2 * k), drawn(seed + 1, 2, 3)
    judge = Preference(Fixed(v, states), Form(2 * k, tau=1.0, gate=True)).double()
    assert judge.gate is not None
    lam = judge.gate(states).softmax(-1)
    s = judge.table(ANY)
    assert (s.abs() <= lam.amax(-1)[:, None, None] + 1e-12).all()
    shorter = Preference(Fixed(v / 1000, states), Form(2 * k, tau=1.0, gate=True)).double()
    shorter.load_state_dict(judge.state_dict())
    torch.testing.assert_close(shorter.table(ANY), s)


@given(seed=seeds)
def test_of_two_responses_the_rewards_differ_by_the_margin(seed: int) -> None:
    judge = Preference(Fixed(drawn(seed, 3, 2, 4)), Form(4, tau=0.3))
    score = judge.score(PAIRS)
    torch.testing.assert_close(score[:, 0] - score[:, 1], judge.margin(PAIRS))
    torch.testing.assert_close(score.sum(-1), torch.zeros(3, dtype=torch.float64))


@given(seed=seeds, n=st.integers(2, 6))
def test_a_reward_is_the_mean_log_odds_over_the_group_without_its_table(seed: int, n: int) -> None:
    judge, several = Preference(Fixed(drawn(seed, 3, n, 4)), Form(4, tau=0.3)), SimpleNamespace(n=n)
    torch.testing.assert_close(judge.score(several), judge.table(several).mean(-1))  # type: ignore[arg-type]


def test_of_a_response_alone_it_says_nothing() -> None:
    alone: Any = SimpleNamespace(n=1)
    with pytest.raises(PrefoptError, match="says nothing of a response alone"):
        Preference(Fixed(drawn(0, 3, 1, 4)), Form(4)).score(alone)


@pytest.mark.parametrize("wrong", [{"dimension": 3}, {"dimension": 0}, {"tau": 0.0}, {"tau": math.nan}], ids=str)
def test_a_form_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(PrefoptError, match=f"method.{next(iter(wrong))}="):
        Form(**wrong)


WORLD = SimpleNamespace(features=drawn(0, 4, 3, 2))


@pytest.mark.parametrize("parameters", [Linear, Table, Network, Steps])
def test_on_an_exact_world_it_opens_again_as_it_was(parameters: Any, tmp_path: Path) -> None:
    model, data = ExactModel(parameters=parameters), SimpleNamespace(world=WORLD)
    torch.manual_seed(0)
    judge: Any = model.reward(data, None, None, Form(4, tau=0.2))
    every = everything(4, 3)
    table = judge.table(every)
    assert table.shape == (4, 3, 3) and table.dtype == torch.float64
    table[:, 0, 1].sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in judge.parameters()), "it can learn from its start"
    judge.export(tmp_path)
    assert form_of(tmp_path) == Form(4, tau=0.2)
    again: Any = model.reward(data, None, tmp_path)  # type: ignore[arg-type]
    assert torch.equal(again.table(every), table)


def test_a_gate_is_stored_beside_the_embedder(tmp_path: Path) -> None:
    known = Fixed(drawn(0, 2, 4, 4), drawn(1, 2, 3))
    embedder: Any = SimpleNamespace(width=3, export=lambda folder: None, embedded=known.embedded)
    judge = Preference(embedder, Form(4, gate=True)).double()
    judge.export(tmp_path)
    again = Form(4, gate=True).on(embedder, tmp_path).double()
    assert torch.equal(again.table(ANY), judge.table(ANY))


def test_an_exact_world_has_no_prompt_for_a_gate() -> None:
    with pytest.raises(PrefoptError, match=r"method\.gate=true"):
        ExactModel(parameters=Table).reward(SimpleNamespace(world=WORLD), None, None, Form(4, gate=True))  # type: ignore[arg-type]
