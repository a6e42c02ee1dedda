"""The exact checks of RPO (arXiv 2405.16436), and of the world with uncovered responses."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prefopt.batch import Pairs
from prefopt.datasets.coverage import Coverage
from prefopt.errors import PrefoptError
from prefopt.evaluation.exact import enumerated
from prefopt.methods.pairwise.base import Pairwise
from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.objectives.ipo import IPO
from prefopt.methods.pairwise.robust.none import Plain
from prefopt.methods.pairwise.robust.unbiased import Unbiased
from prefopt.methods.pairwise.rpo import RPO
from prefopt.models.exact import ExactPolicy, Table

LENGTHS = torch.tensor([[4, 6], [2, 5]])


def rpo(beta: float = 0.1, **given: Any) -> RPO:
    return RPO(objective=DPO(beta=beta), robust=Plain(), **given)


@pytest.fixture
def example(numbers: Any, prepared: Callable[..., Any], pairs_of: Callable[..., Pairs]) -> Callable[..., Tensor]:
    """The loss of a pair with log pi(y_w) = -12 and a log-ratio difference of 0.5, as the method gives it."""

    def loss(method: Pairwise) -> Tensor:
        batch = pairs_of(LENGTHS[:1], torch.tensor([0]))
        values, reference = torch.zeros(1, 2, 6, dtype=torch.float64), torch.zeros(1, 2, 6, dtype=torch.float64)
        values[0, :, 0], reference[0, :, 0] = torch.tensor([-12.0, -15.0]), torch.tensor([-11.0, -13.5])
        return prepared(method, policy=numbers(values), reference=numbers(reference)).loss(batch)[0]

    return loss


@pytest.mark.parametrize(
    ("beta", "eta", "value"),
    [(0.1, 0.005, 0.674460), (0.1, 0.2, 0.908460), (0.01, 0.0, 0.690650), (0.01, 0.005, 0.691250)],
)
def test_1_2_values(example: Callable[..., Tensor], beta: float, eta: float, value: float) -> None:
    assert example(rpo(beta, eta=eta)).item() == pytest.approx(value, abs=1e-6)


def test_3_without_the_adversary_it_is_the_objective_bit_for_bit(example: Callable[..., Tensor]) -> None:
    plain = example(Pairwise(objective=DPO(beta=0.1), robust=Plain()))
    assert torch.equal(example(rpo(eta=0)), plain)
    assert torch.equal(example(rpo(mean_weight=0)), plain)
    assert not torch.equal(example(rpo(eta=0.005)), plain)


def test_5_the_gradient_of_the_extra_term_is_eta_beta_of_the_chosen_alone(
    numbers: Any, prepared: Callable[..., Any], pairs_of: Callable[..., Pairs]
) -> None:
    batch = pairs_of(LENGTHS, torch.tensor([0, 1]))
    gradients = []
    for method in (rpo(beta=0.3, eta=0.7), rpo(beta=0.3, eta=0)):
        policy = numbers(torch.randn(2, 2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
        reference = numbers(torch.zeros(2, 2, 6, dtype=torch.float64))
        prepared(method, policy=policy, reference=reference).loss(batch)[0].sum().backward()
        gradients.append(policy.values.grad)
    extra = gradients[0] - gradients[1]
    chosen = torch.zeros_like(extra)
    chosen[0, 0], chosen[1, 1] = -0.7 * 0.3, -0.7 * 0.3
    torch.testing.assert_close(extra, chosen, rtol=0, atol=1e-15)


def test_6_sum_and_mean_agree_where_the_weights_do(example: Callable[..., Tensor]) -> None:
    torch.testing.assert_close(example(rpo(eta=0.02)), example(rpo(mean_weight=0.02 * 0.1 * 4)))


def test_the_anchor_stays_on_the_recorded_winner_whatever_the_robustifier(example: Callable[..., Tensor]) -> None:
    robust = {"objective": DPO(beta=0.1), "robust": Unbiased(epsilon=0.3)}
    assert (example(RPO(**robust, eta=0.2)) - example(Pairwise(**robust))).item() == pytest.approx(
        0.2 * 0.1 * 12, abs=1e-12
    )


draws = st.integers(0, 2**32 - 1)


@given(seed=draws, responses=st.integers(3, 10), beta=st.floats(0.05, 2), eta=st.floats(0.01, 3))
def test_4_the_inner_problem_of_the_adversary_is_this_loss(
    numbers: Any,
    prepared: Callable[..., Any],
    pairs_of: Callable[..., Pairs],
    seed: int,
    responses: int,
    beta: float,
    eta: float,
) -> None:
    """With r = beta log pi/ref + f(x), and base the frequencies of the chosen:
    eta (beta log E_ref e^(r/beta) - E_base r) + L_D(r) = L_RPO(pi) + eta beta E_base log ref."""
    draw = np.random.default_rng(seed)
    log_ref, log_pi = (np.log(draw.dirichlet(np.ones(responses) * 3)) for _ in range(2))
    w, l = np.stack([draw.choice(responses, size=2, replace=False) for _ in range(12)], 1)  # noqa: E741
    base = np.bincount(w, minlength=responses) / 12
    sides = []
    for shift in (0.0, draw.normal()):
        r = beta * (log_pi - log_ref) + shift
        value = beta * np.log(np.sum(np.exp(log_ref + r / beta))) - base @ r
        sides.append(eta * value + np.logaddexp(0, r[l] - r[w]).mean())
    policy, reference = (numbers(torch.from_numpy(np.stack([x[w], x[l]], 1)[..., None])) for x in (log_pi, log_ref))
    batch = pairs_of(torch.ones(12, 2, dtype=torch.long), torch.zeros(12, dtype=torch.long))
    loss = prepared(rpo(beta, eta=eta), policy=policy, reference=reference).loss(batch)[0].mean().item()
    assert sides == pytest.approx([loss + eta * beta * base @ log_ref] * 2, abs=1e-10)


def test_7_a_boundless_adversary_leaves_only_imitation(prepared: Callable[..., Any]) -> None:
    """pi becomes the frequencies of the chosen; what was never chosen vanishes."""
    data = Coverage(seed=3, covered=4, responses=8, test_pairs=1).load()
    world: Any = data.world
    policy = ExactPolicy(world, Table(world))
    method = prepared(rpo(eta=1e6), policy=policy, reference=ExactPolicy(world, Table(world)))
    batch: Any = data.train.pairs.batch(np.arange(60))
    f: Any = policy.f
    optimizer = torch.optim.LBFGS(f.parameters(), max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = method.loss(batch)[0].mean() / 1e5
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    chosen = batch.response[torch.arange(60), batch.label, 0]
    frequencies = torch.bincount(chosen, minlength=8) / 60
    torch.testing.assert_close(policy.table().exp()[0].detach(), frequencies.double(), rtol=0, atol=1e-4)


def test_a_reward_without_a_price_and_weights_that_push_away_are_refused() -> None:
    with pytest.raises(PrefoptError, match=r"mean_weight=0\.2"):
        RPO(objective=IPO(), robust=Plain())
    RPO(objective=IPO(), robust=Plain(), mean_weight=0.2)
    for wrong in ({"eta": -0.1}, {"mean_weight": -1.0}, {"eta": math.nan}):
        with pytest.raises(PrefoptError, match="push the chosen responses away"):
            rpo(**wrong)


def test_pairs_cover_only_what_is_covered_and_the_rest_is_worth_less() -> None:
    data = Coverage(seed=1).load()
    world: Any = data.world
    for split in (data.train, data.test):
        assert set(split.pairs.response.values) <= set(range(8))
    assert world.covered.sum() == 8
    assert (world.rewards[0, 8:] == -2).all()
    assert world.reference.exp()[0, :8].sum().item() == pytest.approx(0.75)
    assert world.reference.exp().sum().item() == pytest.approx(1)
    assert enumerated(world, world.reference, beta=0.1)["coverage/off_data"] == pytest.approx(0.25)


def test_rewards_of_covered_responses_spread_as_said() -> None:
    rewards = torch.stack([Coverage(seed=seed, pairs=1).make().rewards[0, :8] for seed in range(300)])
    assert rewards.std().item() == pytest.approx(8, abs=3 * 8 / math.sqrt(2 * 2400))


@pytest.mark.parametrize("wrong", [{"covered": 1}, {"covered": 30}, {"mass": 0.0}, {"mass": 1.0}, {"temperature": 0.0}])
def test_a_world_that_covers_nothing_or_all_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(PrefoptError, match=rf"dataset\.{next(iter(wrong))}"):
        Coverage(**wrong)
