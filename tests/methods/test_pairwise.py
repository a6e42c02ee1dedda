"""The exact checks of the example `baselines` for what is built: dpo, cdpo, ipo, slic, and the reward model.

Log-probs of the winner -12 and the loser -15 under the policy, -11 and -13.5 under the reference, 4 and 6 tokens.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefopt.batch import Pairs
from prefopt.methods.pairwise.base import Objective, Pairwise
from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.objectives.ipo import IPO
from prefopt.methods.pairwise.objectives.slic import SLiC
from prefopt.methods.pairwise.pair import Pair
from prefopt.methods.pairwise.robust.none import Plain
from prefopt.methods.pairwise.robust.smoothing import Smoothing
from prefopt.methods.pairwise.robust.unbiased import Unbiased
from prefopt.methods.reward.bradley_terry import BradleyTerry

OBJECTIVES = [DPO(beta=0.1), IPO(tau=0.1), IPO(tau=0.1, average=False), SLiC(delta=1.0, lam=0.1)]


@pytest.fixture
def example(pair: Callable[..., Pair]) -> Pair:
    return pair(-12.0, -15.0, -11.0, -13.5, (4, 6))


def whole(objective: Objective, pair: Pair) -> float:
    anchor = objective.anchor(pair)
    return (objective.preference(pair) + (0 if anchor is None else anchor)).item()


@pytest.mark.parametrize(
    ("objective", "right", "flipped"),
    [
        (DPO(beta=0.1), 0.668460, 0.718460),
        (IPO(tau=0.1, average=False), 20.25, 30.25),
        (IPO(tau=0.1), 25.0, 25.0),
        (SLiC(delta=1.0, lam=0.1), 1.2, 5.5),
    ],
    ids=["dpo", "ipo sum", "ipo mean", "slic"],
)
def test_1_values(example: Pair, objective: Objective, right: float, flipped: float) -> None:
    assert whole(objective, example) == pytest.approx(right, abs=1e-6)
    assert whole(objective, example.swapped()) == pytest.approx(flipped, abs=1e-6)


def test_1_values_of_cdpo(example: Pair) -> None:
    right, flipped = (DPO(beta=0.1).preference(pair) for pair in (example, example.swapped()))
    smoothed = Smoothing(epsilon=0.1)(right, flipped, None).item()
    assert smoothed == pytest.approx(0.9 * 0.668460 + 0.1 * 0.718460, abs=1e-6)


@given(z=st.floats(-20, 20))
def test_2_cdpo_is_dpo_without_smoothing_and_even_towards_a_half(pair: Callable[..., Pair], z: float) -> None:
    def loss(epsilon: float, margin: float) -> float:
        both = pair(margin), pair(margin).swapped()
        return Smoothing(epsilon=epsilon)(*(DPO(beta=1.0).preference(side) for side in both), None).item()

    assert loss(0.0, z) == DPO(beta=1.0).preference(pair(z)).item()
    assert loss(0.5 - 1e-14, z) == pytest.approx(loss(0.5 - 1e-14, -z), abs=1e-11)


@pytest.mark.parametrize("average", [True, False])
@given(e=st.floats(0, 0.4), w=st.floats(-30, 0))
def test_3_unbiased_ipo_has_the_gradient_of_ipo_with_a_smaller_tau(
    pair: Callable[..., Pair], average: bool, e: float, w: float
) -> None:
    gradients = []
    for tau, robust in ((0.1, Unbiased(epsilon=e)), (0.1 * (1 - 2 * e), Plain())):
        S = torch.tensor(w, dtype=torch.float64, requires_grad=True)
        sides = pair(S, -15.0, -11.0, -13.5, (4, 6))
        objective = IPO(tau=tau, average=average)
        loss = robust(objective.preference(sides), objective.preference(sides.swapped()), None)
        gradients.append(torch.autograd.grad(loss, S)[0].item())
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("objective", "value"),
    [(DPO(beta=0.3), math.log(2)), (IPO(tau=0.3), 1 / 0.36), (IPO(tau=0.3, average=False), 1 / 0.36)],
    ids=["dpo", "ipo mean", "ipo sum"],
)
def test_4_a_policy_that_is_its_reference_has_a_known_loss(
    pair: Callable[..., Pair], objective: Objective, value: float
) -> None:
    same = pair(-12.0, -15.0, -12.0, -15.0, (4, 6))
    assert whole(objective, same) == pytest.approx(value, abs=1e-12)
    for robust in (Plain(), Smoothing(epsilon=0.3), Unbiased(epsilon=0.3)):
        right, flipped = objective.preference(same), objective.preference(same.swapped())
        assert robust(right, flipped, None).item() == pytest.approx(value, abs=1e-12)


@given(shift=st.floats(-50, 50))
def test_a_constant_on_both_log_ratios_changes_no_paired_loss(pair: Callable[..., Pair], shift: float) -> None:
    for objective in (DPO(beta=0.1), IPO(tau=0.1, average=False)):
        moved = pair(-12.0 + shift, -15.0 + shift, -11.0, -13.5, (4, 6))
        assert whole(objective, moved) == pytest.approx(whole(objective, pair(-12.0, -15.0, -11.0, -13.5)), rel=1e-10)


# The family: from a batch to losses


def batch_and_roles(pairs_of: Callable[..., Pairs], numbers: Any) -> tuple[Pairs, Any, Any]:
    draw = torch.Generator().manual_seed(0)
    length = torch.randint(1, 6, (12, 2), generator=draw)
    length[0] = 5
    batch = pairs_of(length, torch.arange(12) % 2)
    policy, reference = (
        numbers(-torch.rand(12, 2, 5, generator=draw, dtype=torch.float64) * batch.mask) for _ in range(2)
    )
    return batch, policy, reference


@pytest.mark.parametrize(
    "robust", [Plain(), Smoothing(epsilon=0.2), Unbiased(epsilon=0.2)], ids=lambda r: type(r).__name__
)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=["dpo", "ipo mean", "ipo sum", "slic"])
def test_the_order_of_responses_says_nothing(
    pairs_of: Callable[..., Pairs], numbers: Any, prepared: Any, objective: Objective, robust: Any
) -> None:
    """Responses in the other order with the other label, policy and reference alike, are the same pair."""
    batch, policy, reference = batch_and_roles(pairs_of, numbers)
    turned = pairs_of(batch.length.flip(1), 1 - batch.label)
    one = prepared(Pairwise(objective=objective, robust=robust), policy=policy, reference=reference)
    other = prepared(
        Pairwise(objective=objective, robust=robust),
        policy=numbers(policy.values.data.flip(1)),
        reference=numbers(reference.values.data.flip(1)),
    )
    losses, metrics = one.loss(batch)
    turned_losses, turned_metrics = other.loss(turned)
    assert torch.equal(losses, turned_losses)
    assert all(torch.equal(metrics[name], turned_metrics[name]) for name in metrics)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=["dpo", "ipo mean", "ipo sum", "slic"])
def test_a_flipped_label_gives_the_loss_of_the_flipped_pair(
    pairs_of: Callable[..., Pairs], numbers: Any, prepared: Any, objective: Objective
) -> None:
    """smoothing(e) of a label and smoothing(e) of its flip sum to L(+) + L(-), anchors aside."""
    batch, policy, reference = batch_and_roles(pairs_of, numbers)
    wrong = pairs_of(batch.length, 1 - batch.label)
    roles = {"policy": policy, "reference": reference}
    plain = prepared(Pairwise(objective=objective, robust=Plain()), **roles)
    smooth = prepared(Pairwise(objective=objective, robust=Smoothing(epsilon=0.3)), **roles)
    torch.testing.assert_close(
        smooth.loss(batch)[0] + smooth.loss(wrong)[0], plain.loss(batch)[0] + plain.loss(wrong)[0], rtol=1e-12, atol=0
    )


def test_anchors_are_not_robustified(pairs_of: Callable[..., Pairs], numbers: Any, prepared: Any) -> None:
    batch, policy, _ = batch_and_roles(pairs_of, numbers)
    method = prepared(Pairwise(objective=SLiC(delta=0.0, lam=0.1), robust=Unbiased(epsilon=0.3)), policy=policy)
    S = policy.values.detach().sum(-1)
    S_w, S_l = S.gather(1, batch.label[:, None])[:, 0], S.gather(1, 1 - batch.label[:, None])[:, 0]
    right, flipped = (S_l - S_w).relu(), (S_w - S_l).relu()
    torch.testing.assert_close(method.loss(batch)[0].detach(), (0.7 * right - 0.3 * flipped) / 0.4 - 0.1 * S_w)


def test_cached_reference_log_probs_are_those_of_the_model(
    pairs_of: Callable[..., Pairs], numbers: Any, prepared: Any
) -> None:
    batch, policy, reference = batch_and_roles(pairs_of, numbers)
    cached = pairs_of(batch.length, batch.label, reference.values.detach())
    held = prepared(Pairwise(objective=DPO(), robust=Plain()), policy=policy, reference=reference)
    remembered = prepared(Pairwise(objective=DPO(), robust=Plain()), policy=policy, reference=None)
    assert torch.equal(held.loss(batch)[0], remembered.loss(cached)[0])


def test_the_implied_reward_and_the_metrics(pairs_of: Callable[..., Pairs], numbers: Any, prepared: Any) -> None:
    batch, policy, reference = batch_and_roles(pairs_of, numbers)
    rows = torch.arange(12)
    S, R = policy.values.detach().sum(-1), reference.values.detach().sum(-1)
    expected = {
        DPO(beta=0.3): 0.3 * (S - R),
        IPO(tau=0.3): 0.3 * (S - R) / batch.length,
        IPO(tau=0.3, average=False): 0.3 * (S - R),
        SLiC(): S,
    }
    for objective, reward in expected.items():
        method = prepared(Pairwise(objective=objective, robust=Plain()), policy=policy, reference=reference)
        torch.testing.assert_close(method.score(batch).detach(), reward)
        metrics = method.loss(batch)[1]
        chosen, rejected = reward[rows, batch.label], reward[rows, 1 - batch.label]
        torch.testing.assert_close(metrics["rewards/chosen"], chosen)
        torch.testing.assert_close(metrics["rewards/rejected"], rejected)
        torch.testing.assert_close(metrics["rewards/margins"], chosen - rejected)
        torch.testing.assert_close(metrics["rewards/accuracies"], (chosen > rejected).float())
        torch.testing.assert_close(metrics["logps/chosen"], S[rows, batch.label])
        torch.testing.assert_close(metrics["logps/rejected"], S[rows, 1 - batch.label])


def test_ties_count_as_wrong(pairs_of: Callable[..., Pairs], numbers: Any, prepared: Any) -> None:
    batch, policy, _ = batch_and_roles(pairs_of, numbers)
    method = prepared(Pairwise(objective=DPO(), robust=Plain()), policy=policy, reference=policy)
    assert method.loss(batch)[1]["rewards/accuracies"].sum() == 0


def test_the_reward_model_has_the_loss_of_dpo_in_its_margin(
    pairs_of: Callable[..., Pairs], numbers: Any, prepared: Any
) -> None:
    batch, reward, _ = batch_and_roles(pairs_of, numbers)
    method = prepared(BradleyTerry(robust=Plain()), reward=reward)
    r = reward.values.detach().sum(-1)
    margin = (r[:, 0] - r[:, 1]) * (1 - 2 * batch.label)
    losses, metrics = method.loss(batch)
    torch.testing.assert_close(losses.detach(), -torch.log(torch.sigmoid(margin)))
    torch.testing.assert_close(metrics["rewards/margins"], margin)
    assert torch.equal(metrics["rewards/accuracies"], (margin > 0).float())
