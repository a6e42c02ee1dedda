"""Self-improving robust preference optimisation (arXiv 2406.01660): its loss by hand, its game in closed form."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prefopt.batch import Groups, Pairs, Prompts, Revised
from prefopt.config import composed
from prefopt.datasets.game import Game, GameWorld
from prefopt.errors import PrefoptError
from prefopt.evaluation.game import solution
from prefopt.methods.pairwise.robust.none import Plain
from prefopt.methods.pairwise.robust.unbiased import Unbiased
from prefopt.methods.pairwise.srpo import SRPO
from prefopt.methods.revision import requests, revised_logps
from prefopt.methods.selection.self_revision import SelfRevision
from prefopt.models.exact import ExactPolicy, Table
from prefopt.run import run

CYCLE = [[0.5, 0.9, 0.4], [0.1, 0.5, 0.9], [0.6, 0.1, 0.5]]
LAWS = [[1 / 3, 1 / 3, 1 / 3], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]
ratios = st.lists(st.floats(-5, 5), min_size=6, max_size=6)


class Six(torch.nn.Module):
    """A policy of given log-probs: lr(0), lr(1), then (0|0), (1|0), (0|1), (1|1); plain prompts have one token."""

    def __init__(self, values: Any) -> None:
        super().__init__()
        self.values = torch.nn.Parameter(torch.as_tensor(values, dtype=torch.float64))

    def logps(self, groups: Groups) -> Tensor:
        plain, revised = self.values[:2].expand(len(groups), 2), self.values[2:].view(2, 2).repeat(len(groups) // 2, 1)
        return (plain if groups.prompt.shape[1] == 1 else revised)[..., None]


def pair(label: int = 0) -> Revised:
    return Revised(
        index=torch.zeros(1, dtype=torch.long),
        prompt=torch.ones(1, 1, dtype=torch.long),
        prompt_length=torch.ones(1, dtype=torch.long),
        response=torch.tensor([[[3], [4]]]),
        length=torch.ones(1, 2, dtype=torch.long),
        mean_length=torch.tensor(1.0),
        label=torch.tensor([label]),
        reference=torch.zeros(1, 2, 1, dtype=torch.float64),
        revised_reference=torch.zeros(1, 4, dtype=torch.float64),
    )


def loss(values: Any, prepared: Any, *, label: int = 0, robust: Any = None, **settings: float) -> Tensor:
    method = prepared(SRPO(robust=robust or Plain(), **settings), policy=Six(values), reference=None)
    return method.loss(pair(label))[0]


def test_1_at_the_start_it_is_three_quarters(prepared: Any) -> None:
    assert loss([0] * 6, prepared).item() == pytest.approx(0.75, abs=1e-12)
    assert loss([0] * 6, prepared, alpha=0.0).item() == 1
    assert loss([0] * 6, prepared, alpha=1.0).item() == 0.5


BY_HAND = [-1, -2, 0.3, -1.2, 1.5, -0.5]  # lr(w), lr(l), (w|w), (l|w), (w|l), (l|l)


def test_2_by_hand(prepared: Any) -> None:
    assert loss(BY_HAND, prepared, alpha=0.0).item() == pytest.approx(0.3969, abs=1e-12)
    assert loss(BY_HAND, prepared, alpha=1.0).item() == pytest.approx(0.0900 + 0.1225, abs=1e-12)
    assert loss(BY_HAND, prepared).item() == pytest.approx(0.30470, abs=1e-12)


def test_the_label_says_who_won_wherever_he_stands(prepared: Any) -> None:
    turned = [BY_HAND[i] for i in (1, 0, 5, 4, 3, 2)]
    assert loss(turned, prepared, label=1).item() == pytest.approx(0.30470, abs=1e-12)


@given(values=ratios)
def test_6_without_revisions_it_is_ipo(prepared: Any, values: list[float]) -> None:
    flat = [*values[:2], 0, 0, 0, 0]
    h = values[0] - values[1]
    assert loss(flat, prepared, alpha=0.0).item() == pytest.approx((0.1 * h - 1) ** 2, abs=1e-9)


@given(values=ratios)
def test_7_the_generative_error_is_odd_in_the_order_and_the_target(prepared: Any, values: list[float]) -> None:
    turned = [values[i] for i in (1, 0, 5, 4, 3, 2)]
    inner = 0.1 * (values[4] + values[0] - values[3] - values[1])
    assert loss(values, prepared, alpha=0.0).item() == pytest.approx((inner - 1) ** 2, abs=1e-9)
    assert loss(turned, prepared, alpha=0.0).item() == pytest.approx((inner + 1) ** 2, abs=1e-9)


@given(values=ratios, e=st.floats(0, 0.45))
def test_unbiased_labels_divide_the_targets_by_one_minus_two_eps(prepared: Any, values: list[float], e: float) -> None:
    gradients = []
    for robust in (Unbiased(epsilon=e), Plain()):
        method = prepared(SRPO(robust=robust), policy=Six(values), reference=None)
        if isinstance(robust, Plain):
            lr, ld = method.policy.values[:2], method.policy.values[2:].view(2, 2)
            gen = (0.1 * (ld[1, 0] + lr[0] - ld[0, 1] - lr[1]) - 1 / (1 - 2 * e)) ** 2
            half = 0.5 / (1 - 2 * e)
            imp = (half - 0.1 * (ld[1, 0] - ld[1, 1])) ** 2 + (half - 0.1 * (ld[0, 0] - ld[0, 1])) ** 2
            (0.5 * gen + 0.5 * imp).backward()
        else:
            method.loss(pair())[0].sum().backward()
        gradients.append(method.policy.values.grad)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_3_and_4_the_closed_form_of_the_cycle() -> None:
    world = GameWorld(np.array([CYCLE]))
    pi, again, log_z = (part[0] for part in solution(world, 0.1))
    torch.testing.assert_close(pi, torch.tensor([0.8819, 0.0592, 0.0589], dtype=torch.float64), rtol=0, atol=5e-5)
    rows = [[0.2676, 0.0049, 0.7275], [0.9817, 0.0180, 0.0003], [0.0066, 0.9756, 0.0179]]
    torch.testing.assert_close(again, torch.tensor(rows, dtype=torch.float64), rtol=0, atol=5e-5)
    Z = torch.tensor([184.853, 2751.405, 2768.698], dtype=torch.float64)
    torch.testing.assert_close(log_z.exp(), Z, rtol=0, atol=5e-4)
    p, lr, ld = world.preferences[0], (3 * pi).log(), (3 * again).log()
    for y1 in range(3):
        for y2 in range(3):
            assert float(p[y2, y1] - 0.5 - 0.1 * (ld[y1, y2] - ld[y1, y1])) == pytest.approx(0, abs=1e-12)
            generative = 0.1 * (ld[y2, y1] - ld[y1, y2] + lr[y1] - lr[y2])
            assert float(2 * p[y1, y2] - 1 - generative) == pytest.approx(0, abs=1e-12)
    gained = (again * (p.T - 0.1 * ld)).sum(-1)
    value = (pi * (gained + 0.1 * lr)).sum()
    assert float(value) == pytest.approx(-0.1 * float(torch.log((1 / (3 * Z)).sum())), abs=1e-6)


def population(mu: list[float], preferences: Any = CYCLE) -> tuple[Any, Pairs]:
    data = Game(preferences=preferences, mu=mu, pairs=5100).load()
    return data.world, data.train.pairs


def solved(world: GameWorld, beta: float = 0.1) -> ExactPolicy:
    """The policy that the closed form says."""
    policy = ExactPolicy(world, Table(world))
    pi, again, _ = solution(world, beta)
    with torch.no_grad():
        policy.f.values.copy_(torch.cat([pi, again.flatten(0, 1)]).log())
    return policy


@pytest.mark.parametrize("mu", LAWS, ids=str)
def test_5_no_law_of_the_pairs_moves_the_closed_form(prepared: Any, mu: list[float]) -> None:
    world, table = population(mu)
    policy = solved(world)
    method = prepared(SRPO(robust=Plain()), policy=policy, reference=ExactPolicy(world, Table(world)))
    batch = method.collect(table, 0).batch(np.arange(len(table)))
    value = method.loss(batch)[0].mean()
    (gradient,) = torch.autograd.grad(value, policy.f.values)
    assert gradient.abs().max() < 1e-12
    w, l = (batch.response[torch.arange(len(batch)), side, 0] for side in (batch.label, 1 - batch.label))  # noqa: E741
    p = world.preferences[0][w, l]
    noise = 0.5 * 4 * (1 - p) ** 2 + 0.5 * 2 * (1 - p) ** 2
    assert value.item() == pytest.approx(noise.mean().item(), abs=1e-12)


@given(mu=st.lists(st.integers(1, 9), min_size=3, max_size=3), size=st.integers(50, 400))
def test_a_population_comes_in_proportion(mu: list[int], size: int) -> None:
    law = np.array(mu) / sum(mu)
    table = Game(preferences=CYCLE, mu=law.tolist(), pairs=size).load().train.pairs
    batch = table.batch(np.arange(size))
    w, l = (batch.response[torch.arange(size), side, 0].numpy() for side in (batch.label, 1 - batch.label))  # noqa: E741
    expected = np.array(CYCLE) * np.outer(law, law) * (1 - np.eye(3))
    counts = np.zeros((3, 3))
    np.add.at(counts, (w, l), 1)
    assert counts.sum() == size
    assert np.abs(counts - size * expected / expected.sum()).max() < 1 + 1e-9


def test_a_game_that_is_drawn_is_a_preference_and_depends_on_its_seed() -> None:
    p = Game(responses=5, contexts=3, pairs=60, seed=1).preferences
    assert p.shape == (3, 5, 5)
    np.testing.assert_allclose(p + p.transpose(0, 2, 1), 1)
    assert not np.array_equal(p, Game(responses=5, contexts=3, pairs=60, seed=2).preferences)


@pytest.mark.parametrize(
    "wrong",
    [
        {"preferences": [[0.5, 0.9], [0.2, 0.5]]},
        {"preferences": [[0.5, 0.9]]},
        {"preferences": [[0.5, 1.5], [-0.5, 0.5]]},
        {"mu": [0.5, 0.5]},
        {"mu": [-1, 2, 0, 0, 0]},
        {"mu": [1, 0, 0, 0, 0]},
    ],
    ids=str,
)
def test_a_game_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(PrefoptError, match="dataset"):
        Game(**wrong)


def groups(**changes: Any) -> Groups:
    return replace(
        Groups(
            index=torch.arange(2),
            prompt=torch.tensor([[5, 6, 0], [7, 8, 9]]),
            prompt_length=torch.tensor([2, 3]),
            response=torch.tensor([[[11, 2, 0], [12, 13, 2]], [[14, 15, 16], [2, 0, 0]]]),
            length=torch.tensor([[2, 3], [3, 1]]),
            mean_length=torch.tensor(2.25),
        ),
        **changes,
    )


def test_a_request_is_the_prompt_and_the_answer() -> None:
    asked = requests(object(), groups())
    assert isinstance(asked, Prompts)
    assert asked.prompt.tolist() == [
        [5, 6, 11, 2, 0, 0],
        [5, 6, 12, 13, 2, 0],
        [7, 8, 9, 14, 15, 16],
        [7, 8, 9, 2, 0, 0],
    ]
    assert asked.prompt_length.tolist() == [4, 5, 6, 4]


def test_requests_of_an_exact_world_are_contexts_of_their_own() -> None:
    world = GameWorld(np.array([CYCLE, CYCLE]))
    batch = Game(preferences=CYCLE, pairs=30).load().train.pairs.batch(np.arange(6))
    batch = replace(batch, prompt=torch.ones_like(batch.prompt))
    asked = requests(ExactPolicy(world, Table(world)), batch)
    assert asked.prompt[:, 0].tolist() == (2 + 1 * 3 + batch.response[..., 0]).flatten().tolist()


def test_masks_leave_out_the_answer_that_is_shown() -> None:
    """A model that gives every token one nat counts the response's tokens alone."""

    class One:
        def logps(self, groups: Groups) -> Tensor:
            return -groups.mask.double()

    assert revised_logps(One(), groups()).tolist() == [[[-2, -3], [-2, -3]], [[-3, -1], [-3, -1]]]


class Echo(torch.nn.Module):
    """Answers with one more than the number of tokens that it was asked with."""

    def sample(self, prompts: Groups, n: int, generator: Any) -> Groups:
        response = (prompts.prompt_length[:, None, None] + 1).expand(-1, n, 1).contiguous()
        return replace(prompts, response=response, length=torch.ones_like(response[..., 0]))


@pytest.mark.parametrize(("times", "answers"), [(0, [[3, 3], [4, 4]]), (1, [[4, 4], [5, 5]]), (4, [[4, 4], [5, 5]])])
def test_each_revision_sees_the_prompt_and_the_last_answer(prepared: Any, times: int, answers: list[list[int]]) -> None:
    method = prepared(SelfRevision(revisions=times), policy=Echo())
    found = method.act(groups(), 2)
    assert found.response[..., 0].tolist() == answers
    assert found.prompt.tolist() == groups().prompt.tolist()
    assert found.length.tolist() == [[1, 1], [1, 1]]


def test_a_negative_number_of_revisions_is_refused() -> None:
    with pytest.raises(PrefoptError, match=r"method\.revisions=-1"):
        SelfRevision(revisions=-1)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["dataset=bandit", "dataset.pairs=8"], "eats Revised, and dataset=bandit gives only"),
        (["dataset=game", "dataset.pairs=30", "method.needs.reference=cached"], "no cache knows"),
    ],
)
def test_what_cannot_work_is_refused(home: Any, overrides: list[str], says: str) -> None:
    with pytest.raises(PrefoptError, match=says):
        run(composed(["method=srpo", "model=tabular", "tracking=none", "trainer=cpu", *overrides]))
