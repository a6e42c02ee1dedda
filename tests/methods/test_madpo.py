"""The exact checks of MADPO (arXiv 2510.05342) and of its baseline beta-DPO (arXiv 2407.08639)."""

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
from prefopt.datasets.data import Data
from prefopt.errors import PrefoptError
from prefopt.methods.pairwise.base import Pairwise
from prefopt.methods.pairwise.beta_dpo import BetaDPO, Moments
from prefopt.methods.pairwise.madpo import MADPO
from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.objectives.hinge import Hinge
from prefopt.methods.pairwise.objectives.ipo import IPO
from prefopt.methods.pairwise.robust.none import Plain
from prefopt.methods.pairwise.robust.tilt import Tilt
from prefopt.methods.pairwise.robust.unbiased import Unbiased
from prefopt.models.exact import ExactPolicy, ExactReward, Linear

FAR = math.log(999)


def madpo(**given: Any) -> MADPO:
    return MADPO(objective=DPO(beta=1.0), robust=Plain(), **given)


def numbers_at(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_1_the_amplification_falls_through_one_at_the_threshold() -> None:
    c = madpo()._c(numbers_at(FAR, 0, 1, 3, 10, 1e4, -3))
    assert c.tolist() == pytest.approx([1, 1.99700, 1.99188, 1.94201, 0.53326, 0.5, 1.94201], abs=1e-5)


def test_2_3_weights() -> None:
    far = madpo()._weight(numbers_at(0, 1, 3, FAR, 10, -1, -3, -8))
    assert far.tolist() == pytest.approx([1, 1.20365, 1.0467, 1, 0.99524, 0.44641, 0.06201, 1], abs=1e-5)
    near = madpo(threshold=2.0)
    assert near._c(numbers_at(1, 3)).tolist() == pytest.approx([1.36418, 0.73304], abs=1e-5)
    assert near._weight(numbers_at(1, 3, -1, -3)).tolist() == pytest.approx([1.08943, 0.94499, 0.7569, 1], abs=1e-5)


def minimiser(m: Tensor, method: MADPO) -> Tensor:
    """z that minimises sigmoid(m) w(m) L(z) + sigmoid(-m) w(-m) L(-z), by Newton's method on the method's own loss."""
    z = torch.zeros_like(m, requires_grad=True)
    share, other = m.sigmoid() * method._weight(m), (-m).sigmoid() * method._weight(-m)
    for _ in range(200):
        expected = -share * torch.nn.functional.logsigmoid(z) - other * torch.nn.functional.logsigmoid(-z)
        (slope,) = torch.autograd.grad(expected.sum(), z, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), z)
        step = (slope / curvature).detach().clamp(-1, 1)
        z = (z.detach() - step).requires_grad_()
    return z.detach()


@pytest.mark.parametrize("threshold", [2.0, FAR])
def test_4_the_population_minimiser_is_the_effective_target(threshold: float) -> None:
    method = madpo(threshold=threshold)
    m = torch.linspace(-0.99, 0.99, 20, dtype=torch.float64) * threshold
    torch.testing.assert_close(minimiser(m, method), method._c(m) * m, rtol=0, atol=1e-6)
    at_one = minimiser(numbers_at(1), method).item()
    assert at_one == pytest.approx(1.364175 if threshold == 2 else 1.991881, abs=1e-6)


@given(m=st.floats(-1e4, 1e4), c_max=st.floats(1.01, 8), threshold=st.floats(0.1, 10))
def test_weights_are_bounded(m: float, c_max: float, threshold: float) -> None:
    weight = madpo(c_max=c_max, threshold=threshold)._weight(numbers_at(m)).item()
    assert (0.5 if m >= 0 else 0) <= weight <= 2
    bound = torch.nn.functional.logsigmoid(numbers_at(-c_max * threshold, -threshold))
    assert m >= 0 or weight >= (bound[0] - bound[1]).exp().item() * (1 - 1e-9)


def exact(bandit: Data, prepared: Callable[..., Any], method: Pairwise) -> tuple[Any, Any]:
    """The method in an exact world, with a policy and a reward that are not at their start; its collected batch."""
    world: Any = bandit.world
    policy, reference = (ExactPolicy(world, Linear(world)) for _ in range(2))
    reward = ExactReward(Linear(world))
    f: Any = policy.f
    g: Any = reward.f
    f.theta.data += torch.tensor([0.4, -0.2, 0.9])
    g.theta.data += torch.tensor([1.5, 0.5, -2.0])
    roles = {"policy": policy, "reference": reference, "reward": reward}
    method = prepared(method, **{role: roles[role] for role in method.roles})
    table = method.collect(bandit.train.pairs, 0)
    assert table is not None
    return method, table.batch(np.arange(len(table)))


def test_5_without_amplification_it_is_dpo(bandit: Data, prepared: Callable[..., Any]) -> None:
    method, batch = exact(bandit, prepared, madpo(c_max=1.0))
    plain, same = exact(bandit, prepared, Pairwise(objective=DPO(beta=1.0), robust=Plain()))
    assert torch.equal(method.loss(batch)[0], plain.loss(same)[0])


def test_each_loss_is_that_of_dpo_times_the_weight_of_its_own_margin(
    bandit: Data, prepared: Callable[..., Any]
) -> None:
    method, batch = exact(bandit, prepared, madpo())
    plain, same = exact(bandit, prepared, Pairwise(objective=DPO(beta=1.0), robust=Plain()))
    scores, rows = method.reward.score(batch).detach(), torch.arange(len(batch))
    weight = method._weight(scores[rows, batch.label] - scores[rows, 1 - batch.label])
    assert weight.min() < 0.5 < 1 < weight.max()
    torch.testing.assert_close(method.loss(batch)[0], weight * plain.loss(same)[0])


def test_5_the_reward_model_learns_nothing_and_its_margins_are_of_the_recorded_order(
    bandit: Data, prepared: Callable[..., Any]
) -> None:
    method, batch = exact(bandit, prepared, madpo())
    losses, metrics = method.loss(batch)
    losses.sum().backward()
    assert method.policy.f.theta.grad.abs().sum() > 0
    assert method.reward.f.theta.grad is None
    scores = method.reward.score(batch).detach()
    rows = torch.arange(len(batch))
    margin = scores[rows, batch.label] - scores[rows, 1 - batch.label]
    torch.testing.assert_close(metrics["madpo/margin"], margin)
    assert (margin < 0).any()


def test_margins_are_computed_once_for_all_rounds(
    bandit: Data, prepared: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    method, _ = exact(bandit, prepared, madpo())
    first = method.collect(bandit.train.pairs, 0)
    monkeypatch.setattr(method.reward, "score", None)
    assert method.collect(bandit.train.pairs, 1) is first


def test_a_robustifier_gets_each_side_with_its_own_weight(bandit: Data, prepared: Callable[..., Any]) -> None:
    """So the correction for flips is unbiased: its mean over the flip is the loss of the clean label."""
    e = 0.3
    robust, batch = exact(bandit, prepared, MADPO(objective=DPO(beta=1.0), robust=Unbiased(epsilon=e)))
    clean, _ = exact(bandit, prepared, madpo())
    flipped = Pairs(**{**vars(batch), "label": 1 - batch.label})
    mean = (1 - e) * robust.loss(batch)[0] + e * robust.loss(flipped)[0]
    torch.testing.assert_close(mean, clean.loss(batch)[0])


@pytest.mark.parametrize("wrong", [{"c_max": 0.5}, {"c_max": 2.0, "c_min": 1.5}, {"c_max": 2.0, "c_min": 0.0}])
def test_targets_that_are_not_amplified_then_damped_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(PrefoptError, match="amplified below the threshold"):
        madpo(**wrong)


def test_an_error_of_the_reward_model_moves_the_target_by_a_bounded_multiple_of_it() -> None:
    method, m = madpo(), torch.linspace(-6.5, 6.5, 400, dtype=torch.float64)
    noise = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = []
    for s in (0.01, 0.02, 0.04):
        noisy = (m + s * noise).clamp(-6.8, 6.8)
        moved = minimiser(noisy, method) - method._c(m) * m
        errors.append((moved.abs().mean() / s).item())
        assert (moved.abs() <= 2 * (noisy - m).abs() + 1e-6).all()
    assert max(errors) / min(errors) < 1.1


# beta-DPO


def beta_dpo(beta: float = 0.1, **given: Any) -> BetaDPO:
    return BetaDPO(objective=DPO(beta=beta), robust=Plain(), **given)


def given_gaps(
    numbers: Any, prepared: Callable[..., Any], pairs_of: Callable[..., Pairs], method: BetaDPO, gaps: list[float]
) -> tuple[Any, Pairs]:
    values = torch.zeros(len(gaps), 2, 1, dtype=torch.float64)
    values[:, 0, 0] = torch.tensor(gaps)
    batch = pairs_of(torch.ones(len(gaps), 2, dtype=torch.long), torch.zeros(len(gaps), dtype=torch.long))
    return prepared(method, policy=numbers(values), reference=numbers(torch.zeros_like(values))), batch


GAPS = [2.0, 0.0, 4.0, -2.0]


def test_6_the_batch_beta_follows_the_mean_of_the_kept(
    numbers: Any, prepared: Callable[..., Any], pairs_of: Callable[..., Pairs], monkeypatch: pytest.MonkeyPatch
) -> None:
    method, batch = given_gaps(numbers, prepared, pairs_of, beta_dpo(), GAPS)
    monkeypatch.setattr(method, "_kept", lambda *_: torch.tensor([True, True, True, False]))
    monkeypatch.setattr(Moments, "forward", lambda *_: numbers_at(1, 2))
    losses, metrics = method.loss(batch)
    assert metrics["beta_dpo/beta"].item() == pytest.approx(0.16)
    expected = [4 / 3 * np.logaddexp(0, -0.16 * h) for h in GAPS[:3]]
    assert losses.tolist() == pytest.approx([*expected, 0.0])


def test_a_robustifier_sees_the_kept_alone(
    numbers: Any, prepared: Callable[..., Any], pairs_of: Callable[..., Pairs], monkeypatch: pytest.MonkeyPatch
) -> None:
    tilted = BetaDPO(objective=DPO(beta=0.1), robust=Tilt(temperature=0.5))
    method, batch = given_gaps(numbers, prepared, pairs_of, tilted, GAPS)
    kept = torch.tensor([True, False, True, True])
    monkeypatch.setattr(method, "_kept", lambda *_: kept)
    losses, metrics = method.loss(batch)
    z = metrics["beta_dpo/beta"] * torch.tensor(GAPS, dtype=torch.float64)[kept]
    assert losses.mean().item() == pytest.approx(-0.5 * np.log(np.mean(np.exp(np.log(z.sigmoid().numpy()) / 0.5))))
    assert losses[1] == 0


def test_6_pairs_are_kept_in_proportion_to_a_gaussian(
    numbers: Any, prepared: Callable[..., Any], pairs_of: Callable[..., Pairs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pair of four, of weights .8825, .8825, .3247, .3247."""
    method, batch = given_gaps(numbers, prepared, pairs_of, beta_dpo(keep=0.25), GAPS)
    step, drawn = [0], torch.zeros(4)
    monkeypatch.setattr(BetaDPO, "global_step", property(lambda self: step[0]))
    for step[0] in range(2000):
        drawn += method._kept(numbers_at(*GAPS), numbers_at(1), numbers_at(2), batch)
    shares = torch.tensor([0.8825, 0.8825, 0.3247, 0.3247]) / 2.4144
    assert (drawn.sum(), drawn.max() < 2000) == (2000, True)
    assert ((drawn / 2000 - shares).abs() < 4 * (shares * (1 - shares) / 2000).sqrt()).all()


def test_7_a_beta_that_would_be_negative_is_clamped(
    numbers: Any, prepared: Callable[..., Any], pairs_of: Callable[..., Pairs]
) -> None:
    method, batch = given_gaps(numbers, prepared, pairs_of, beta_dpo(), [-30.0, -31.0, -29.0, -30.0])
    assert method.loss(batch)[1]["beta_dpo/beta"].item() == pytest.approx(0.001)


def test_the_first_batches_are_filtered_though_the_moments_start_at_zero(
    numbers: Any, prepared: Callable[..., Any], pairs_of: Callable[..., Pairs]
) -> None:
    """From M = S = 0 the weights are as small as 3e-50; and where policy is reference, all gaps are 0."""
    for gaps in (GAPS, [0.0] * 5):
        method, batch = given_gaps(numbers, prepared, pairs_of, beta_dpo(), gaps)
        losses = method.loss(batch)[0]
        assert losses.isfinite().all()
        assert (losses > 0).sum() == round(0.8 * len(gaps))


def test_moments_move_with_the_optimiser_and_stay_in_evaluation(
    numbers: Any, prepared: Callable[..., Any], pairs_of: Callable[..., Pairs]
) -> None:
    method, batch = given_gaps(numbers, prepared, pairs_of, beta_dpo(), GAPS)
    for _ in range(2):
        method.loss(batch)
    assert method.moments.values.tolist() == [0, 0]
    method.moments.learn()
    after = method.moments.values.tolist()
    assert after == pytest.approx([0.1 * 1, 0.1 * np.std(GAPS, ddof=1)])
    method.eval()
    losses, metrics = method.loss(batch)
    method.moments.clear()
    method.moments.learn()
    assert method.moments.values.tolist() == after
    assert (losses > 0).all()
    assert metrics["beta_dpo/beta"].item() == pytest.approx(0.1 * (1 + 0.6 * (1 - 0.1)))


def test_another_objective_than_dpo_and_an_empty_share_are_refused() -> None:
    for other in (IPO(), Hinge()):  # built on DPO, and yet another loss
        with pytest.raises(PrefoptError, match="beta of DPO"):
            BetaDPO(objective=other, robust=Plain())
    with pytest.raises(PrefoptError, match="no share"):
        beta_dpo(keep=0.0)
