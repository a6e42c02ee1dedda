"""Exact values and limits of the objectives beside dpo, ipo and slic; lndpo is arXiv 2407.15229.

Log-probs of the winner -12 and the loser -15 under the policy, -11 and -13.5 under the reference, 4 and 6 tokens:
implied rewards at beta 0.1 are c = -0.1 and r = -0.15, their margin z = 0.05.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torch import Tensor

from prefopt.batch import Pairs
from prefopt.config import composed
from prefopt.errors import PrefoptError
from prefopt.methods.pairwise.base import Objective, Pairwise
from prefopt.methods.pairwise.objectives.alphapo import AlphaPO
from prefopt.methods.pairwise.objectives.aot import AOT
from prefopt.methods.pairwise.objectives.aot_unpaired import AOTUnpaired
from prefopt.methods.pairwise.objectives.apo_down import APODown
from prefopt.methods.pairwise.objectives.apo_zero import APOZero
from prefopt.methods.pairwise.objectives.bco import BCO
from prefopt.methods.pairwise.objectives.cal_dpo import CalDPO
from prefopt.methods.pairwise.objectives.chi_po import ChiPO
from prefopt.methods.pairwise.objectives.cpo import CPO
from prefopt.methods.pairwise.objectives.discopop import DiscoPOP
from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.objectives.dpo_lenreg import DPOLengthRegularised
from prefopt.methods.pairwise.objectives.dpop import DPOP
from prefopt.methods.pairwise.objectives.exo import EXO
from prefopt.methods.pairwise.objectives.exponential import expm1
from prefopt.methods.pairwise.objectives.f_dpo import FDPO
from prefopt.methods.pairwise.objectives.hinge import Hinge
from prefopt.methods.pairwise.objectives.ipo import IPO
from prefopt.methods.pairwise.objectives.kto import KTO
from prefopt.methods.pairwise.objectives.ld_dpo import LDDPO
from prefopt.methods.pairwise.objectives.lndpo import LNDPO
from prefopt.methods.pairwise.objectives.nca import NCA
from prefopt.methods.pairwise.objectives.odpo import ODPO
from prefopt.methods.pairwise.objectives.orpo import ORPO
from prefopt.methods.pairwise.objectives.simpo import SimPO
from prefopt.methods.pairwise.objectives.sppo_hard import SPPOHard
from prefopt.methods.pairwise.objectives.wpo import WPO
from prefopt.methods.pairwise.pair import Pair, Side, mismatched
from prefopt.methods.pairwise.robust.none import Plain
from prefopt.methods.pairwise.robust.unbiased import Unbiased
from prefopt.models.exact import ExactPolicy, Linear
from prefopt.run import Parts, run

nats = st.floats(-30, 30)


@pytest.fixture
def example(pair: Callable[..., Pair]) -> Pair:
    return pair(-12.0, -15.0, -11.0, -13.5, (4, 6))


def preference(objective: Objective, pair: Pair) -> float:
    return objective.preference(pair).item()


def whole(objective: Objective, pair: Pair) -> float:
    anchor = objective.anchor(pair)
    return preference(objective, pair) + (0 if anchor is None else anchor.item())


def slope(objective: Objective, at: Callable[[Tensor], Pair], value: float) -> float:
    """d L / d value."""
    x = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(objective.preference(at(x)).sum(), x)[0].item()


# Values


@pytest.mark.parametrize(
    ("objective", "right", "flipped"),
    [
        (Hinge(), 0.95, 1.05),
        (SimPO(beta=2.5, gamma=0.5), 1.910224, 0.386871),
        (SimPO(beta=2, gamma=1), 2.126928, None),
        (CPO(average=False), 12.554355, 15.854355),
        (CPO(), 3.554355, 3.354355),
        (LNDPO(beta=2.5), 0.693147, 0.693147),
        (EXO(epsilon=1e-3), 2.675227, 2.847860),
        (NCA(), 1.377074, 1.403634),
        (BCO(), 1.365354, 1.415354),
        (APOZero(), 0.987549, 1.012451),
        (APODown(), 0.962523, 0.975068),
        (SPPOHard(), 48.25, 58.25),
        (DiscoPOP(beta=0.1, tau=0.05), 0.875181, 0.807966),
        (ORPO(lam=0.1), 3.099574, None),
        (AOT(), 0.668460, 0.718460),
        (AOTUnpaired(), 0.668460, 0.718460),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Objective) else "",
)
def test_1_values(example: Pair, objective: Objective, right: float, flipped: float | None) -> None:
    assert whole(objective, example) == pytest.approx(right, abs=1e-6)
    if flipped is not None:
        assert whole(objective, example.swapped()) == pytest.approx(flipped, abs=1e-6)


def test_1_values_of_kto(example: Pair) -> None:
    at_k = replace(example, mismatched=torch.full((1, 2), 0.2, dtype=torch.float64))
    assert preference(KTO(undesirable=0.0), at_k) == pytest.approx(0.529964, abs=1e-6)
    assert preference(KTO(desirable=0.0), at_k) == pytest.approx(0.457602, abs=1e-6)
    assert preference(KTO(desirable=2.0, undesirable=3.0), at_k) == pytest.approx(2 * 0.529964 + 3 * 0.457602, abs=4e-6)


def test_1_the_odds_ratio_of_orpo(example: Pair) -> None:
    rewards = [ORPO().reward(side.logps, None, side.length).item() for side in (example.w, example.l)]
    assert rewards[0] - rewards[1] == pytest.approx(-0.534581, abs=1e-6)
    assert preference(ORPO(lam=1.0), example) == pytest.approx(math.log1p(math.exp(0.534581)), abs=1e-6)


def test_values_by_hand(example: Pair) -> None:
    """z = 0.05; log-ratios -1 and -1.5 over 4 and 6 tokens."""

    def logistic(margin: float) -> float:
        return math.log1p(math.exp(-margin))

    alpha = AlphaPO(beta=2.0, gamma=0.3, alpha=0.5)
    shaped = [(1 - math.exp(0.5 * A)) / 0.5 for A in (3, 2.5)]
    expected: dict[Objective, float] = {
        DPOP(lam=5.0): logistic(0.05 - 0.1 * 5 * 1),
        CalDPO(): logistic(0.5) + 0.5 * (6**2 + 3.5**2),
        DPOLengthRegularised(alpha=0.02): logistic(0.05 - 0.02 * 2),
        alpha: logistic(2 * (shaped[0] - shaped[1]) - 0.3),
        FDPO(divergence="forward_kl"): logistic(0.1 * (math.exp(1.5) - math.e)),
        FDPO(divergence="js"): logistic(0.1 * (logistic(-1.5) - logistic(-1))),
        FDPO(divergence="alpha", alpha=0.5): logistic(0.2 * (math.exp(0.75) - math.exp(0.5))),
        ChiPO(): logistic(0.1 * (math.exp(-1) - math.exp(-1.5) + 0.5)),
        ChiPO(beta=10.0, bound=1.0): logistic(2),
    }
    for objective, value in expected.items():
        assert preference(objective, example) == pytest.approx(value, abs=1e-9), type(objective).__name__


def test_4_a_policy_that_is_its_reference_has_a_known_loss(pair: Callable[..., Pair]) -> None:
    same = replace(
        pair(-12.0, -15.0, -12.0, -15.0, (4, 6)), mismatched=torch.tensor([[-1.0, 0.5]], dtype=torch.float64)
    )
    expected: dict[Objective, float] = {
        LNDPO(): math.log(2),
        Hinge(): 1,
        APOZero(): 1,
        APODown(): 1,
        KTO(): 1,
        KTO(undesirable=0.0): 0.5,
        EXO(epsilon=0.01): 0.5 * math.log(0.25 / (0.01 * 0.99)),
        NCA(): 2 * math.log(2),
        BCO(): 2 * math.log(2),
        SPPOHard(beta=0.2): 2 * 2.5**2,
        DiscoPOP(): 0.5 * math.log(2) + 0.5,
        CalDPO(beta=0.2): math.log(2) + 2.5**2,
        **{FDPO(divergence=name): math.log(2) for name in ("reverse_kl", "forward_kl", "js", "alpha")},
        **{kind(): math.log(2) for kind in (AOT, AOTUnpaired, DPOP, LDDPO, ChiPO)},
    }
    for objective, value in expected.items():
        assert preference(objective, same) == pytest.approx(value, abs=1e-12), type(objective).__name__


# Limits and identities


@given(w=nats, l=nats)
def test_5_apo_zero_is_noise_tolerant_by_itself(pair: Callable[..., Pair], w: float, l: float) -> None:  # noqa: E741
    """L(+) + L(-) = 2, so its unbiased version is itself, scaled and shifted."""
    both = [preference(APOZero(), side) for side in (pair(w, l), pair(w, l).swapped())]
    assert sum(both) == pytest.approx(2, abs=1e-12)
    for e in (0.1, 0.3):
        corrected = Unbiased(epsilon=e)(*map(torch.tensor, both), None).item()
        assert corrected == pytest.approx((both[0] - 2 * e) / (1 - 2 * e), abs=1e-6)


@given(w=nats, l=nats)
def test_6_kto_at_zero_kl_is_apo_zero(pair: Callable[..., Pair], w: float, l: float) -> None:  # noqa: E741
    below = replace(pair(w, l), mismatched=torch.full((1, 2), -3.0, dtype=torch.float64))
    assert preference(KTO(), below) == pytest.approx(preference(APOZero(), pair(w, l)), abs=1e-12)


@given(w=nats, l=nats)
def test_7_alone_in_a_batch_aot_is_dpo(pair: Callable[..., Pair], w: float, l: float) -> None:  # noqa: E741
    for objective in (AOT(), AOTUnpaired()):
        assert preference(objective, pair(w, l, 1.0, -2.0)) == pytest.approx(
            preference(DPO(), pair(w, l, 1.0, -2.0)), abs=1e-12
        )


@pytest.mark.parametrize(("e", "z"), [(0.1, 2.197225), (0.01, 4.595120)])
def test_8_the_minimum_of_exo(pair: Callable[..., Pair], e: float, z: float) -> None:
    found = minimize_scalar(
        lambda z: preference(EXO(beta=1.0, epsilon=e), pair(z)),
        bounds=(0, 10),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert found.x == pytest.approx(z, abs=1e-5)
    assert found.fun == pytest.approx(0, abs=1e-9)


@given(shift=nats, w=nats, l=nats)
def test_a_constant_on_both_log_ratios_changes_no_paired_loss(
    pair: Callable[..., Pair],
    shift: float,
    w: float,
    l: float,  # noqa: E741
) -> None:
    for objective in (Hinge(), EXO(), DiscoPOP(), AOT(), AOTUnpaired(), DPOLengthRegularised()):
        moved, still = (preference(objective, pair(w + s, l + s)) for s in (shift, 0))
        assert moved == pytest.approx(still, rel=1e-9, abs=1e-9), type(objective).__name__


def test_a_constant_on_both_log_ratios_changes_every_pointwise_loss(pair: Callable[..., Pair]) -> None:
    for objective in (NCA(), BCO(), APOZero(), APODown(), SPPOHard(), CalDPO(), DPOP(), FDPO(), ChiPO()):
        moved, still = (preference(objective, pair(-1.0 + shift, -5.0 + shift)) for shift in (7.3, 0))
        assert abs(moved - still) > 1e-3, type(objective).__name__


def test_which_losses_are_bounded_on_a_contradicted_pair(pair: Callable[..., Pair]) -> None:
    """Constant, linear or quadratic in the margin, far out."""
    nothing = torch.zeros(1, 2, dtype=torch.float64)

    def growth(objective: Objective) -> float:
        values = [preference(objective, replace(pair(-x, x), mismatched=nothing)) for x in (1e3, 2e3)]
        return values[1] / values[0]

    grows: dict[int, tuple[Objective, ...]] = {
        1: (APOZero(), APODown(), KTO(), EXO()),
        2: (Hinge(), NCA(), BCO(), CPO(), SimPO(gamma=0.0), AOT()),
        4: (SPPOHard(), CalDPO()),
    }
    for factor, objectives in grows.items():
        for objective in objectives:
            assert growth(objective) == pytest.approx(factor, abs=0.05), type(objective).__name__
    assert preference(EXO(epsilon=1e-3), pair(-1e3, 1e3)) == pytest.approx(-math.log(1e-3), abs=1e-9)
    assert preference(KTO(), replace(pair(-1e3, -1e3), mismatched=nothing)) == pytest.approx(1, abs=1e-9)


@given(w=nats, l=nats)
def test_what_the_kin_of_dpo_become_at_their_limits(pair: Callable[..., Pair], w: float, l: float) -> None:  # noqa: E741
    it = pair(w, l, 1.0, -2.0, (4, 6))
    dpo = preference(DPO(), it)
    for objective in (DPOP(lam=0.0), DPOLengthRegularised(alpha=0.0), LDDPO(alpha=1.0), FDPO(divergence="reverse_kl")):
        assert preference(objective, it) == pytest.approx(dpo, abs=1e-12), type(objective).__name__
    near = FDPO(divergence="alpha", alpha=1 - 1e-9)
    assert preference(near, it) == pytest.approx(dpo, abs=1e-5)
    ends = FDPO(divergence="alpha", alpha=0.0), FDPO(divergence="forward_kl")
    assert preference(ends[0], it) == preference(ends[1], it)
    simpo = preference(SimPO(), it)
    assert preference(AlphaPO(alpha=0.0), it) == pytest.approx(simpo, abs=1e-12)
    assert preference(AlphaPO(alpha=1e-9), it) == pytest.approx(simpo, abs=1e-5)


@given(w=st.floats(0, 50))
def test_dpop_is_dpo_where_the_winner_has_risen(pair: Callable[..., Pair], w: float) -> None:
    assert preference(DPOP(lam=50.0), pair(w, -3.0)) == preference(DPO(), pair(w, -3.0))


def test_expm1_is_exact_then_straight() -> None:
    x = torch.tensor([-1e4, -1.0, 1e-12, 3.0, 39.9, 45.0, 1e4], dtype=torch.float64, requires_grad=True)
    value = expm1(x)
    assert value[:5].tolist() == torch.special.expm1(x[:5]).tolist()
    assert value[5].item() == pytest.approx(math.exp(40) * 6, rel=1e-12)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert gradient[5:].tolist() == pytest.approx([math.exp(40)] * 2, rel=1e-12)


def test_ld_dpo_counts_what_is_beyond_the_other_response_by_alpha() -> None:
    winner = Side(torch.tensor([[-1.0, -2.0, -3.0, -4.0]]), torch.zeros(1, 4), torch.tensor([4]))
    loser = Side(torch.tensor([[-5.0, -7.0, 0.0, 0.0]]), torch.zeros(1, 4), torch.tensor([2]))
    pair = Pair(winner, loser, torch.tensor(3.0))
    for alpha in (0.0, 0.3, 1.0):
        z = LDDPO(beta=1.0, alpha=alpha).z(pair).item()
        assert z == pytest.approx(-3 - 7 * alpha + 12, abs=1e-6)
        assert LDDPO(beta=1.0, alpha=alpha).z(pair.swapped()).item() == pytest.approx(-z, abs=1e-6)


def test_wpo_weighs_dpo_without_a_gradient(example: Pair) -> None:
    collisions = {"w": torch.full((1, 4), -0.7), "l": torch.full((1, 6), -0.4)}
    weighed = replace(
        example, **{side: replace(getattr(example, side), collisions=c) for side, c in collisions.items()}
    )
    weight = math.exp(-3 + 0.7) * math.exp(-2.5 + 0.4)
    assert preference(WPO(), weighed) == pytest.approx(weight * preference(DPO(), example), rel=1e-6)

    def at(S: Tensor, objective: Objective) -> float:
        side = replace(weighed.w, logps=S * torch.ones(1, 4, dtype=torch.float64))
        return torch.autograd.grad(objective.preference(replace(weighed, w=side)).sum(), S)[0].item()

    S = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True)
    assert at(S, WPO()) == pytest.approx(weight * at(S, DPO()), rel=1e-6)


def test_objectives_refuse_what_they_cannot_mean() -> None:
    for refused in (lambda: EXO(epsilon=0.0), lambda: DiscoPOP(tau=2.0), lambda: FDPO(divergence="hellinger")):
        with pytest.raises(PrefoptError, match=r"method\.objective\."):
            refused()


@given(w=nats, l=nats, margin=st.floats(0.01, 100))
def test_odpo_asks_for_more_where_the_margin_is_wide(
    pair: Callable[..., Pair],
    w: float,
    l: float,  # noqa: E741
    margin: float,
) -> None:
    def loss(alpha: float, margin: float, swapped: bool = False) -> float:
        it = replace(pair(w, l), margin=torch.tensor([margin], dtype=torch.float64))
        return preference(ODPO(beta=0.1, alpha=alpha), it.swapped() if swapped else it)

    z = 0.1 * (w - l)
    assert loss(0.5, margin) == pytest.approx(math.log1p(math.exp(0.5 * math.log(margin) - z)), rel=1e-9)
    assert loss(0.5, -margin) == loss(0.5, margin)
    assert loss(0.5, margin, swapped=True) == pytest.approx(math.log1p(math.exp(0.5 * math.log(margin) + z)), rel=1e-9)
    assert loss(0.0, margin) == preference(DPO(), pair(w, l))
    assert loss(1.0, 1.0) == pytest.approx(preference(DPO(), pair(w, l)), abs=1e-12)
    assert loss(1.0, 0.0) == pytest.approx(0, abs=1e-25)


def test_odpo_counts_the_pairs_without_a_margin(bandit: Any, prepared: Any) -> None:
    pairs = bandit.train.pairs
    gaps = np.array([np.nan if row < 3 else 1.0 for row in range(len(pairs))])
    for known, missing in (({}, 64), ({"margin": gaps}, 3)):
        with pytest.raises(PrefoptError, match=rf"margin of every pair, and {missing} of 64 have none"):
            ODPO().begin(replace(pairs, known=known))
    ODPO().begin(pairs)
    gold = bandit.train.truth.gold
    assert np.allclose(pairs.batch(np.arange(64)).margin, np.abs(gold[:, 0] - gold[:, 1]))


# Length-normalised DPO


@given(w=nats, l=nats, length=st.integers(1, 9), beta=st.floats(0.01, 2))
def test_lndpo_1_of_equal_lengths_it_is_dpo(
    pair: Callable[..., Pair],
    w: float,
    l: float,  # noqa: E741
    length: int,
    beta: float,
) -> None:
    def at(S: Tensor) -> Pair:
        return pair(S, l, 1.0, -2.0, (length, length))

    normalised, summed = LNDPO(beta=beta * length), DPO(beta=beta)
    point = torch.tensor(w, dtype=torch.float64)
    assert preference(normalised, at(point)) == pytest.approx(preference(summed, at(point)), abs=1e-9)
    assert slope(normalised, at, w) == pytest.approx(slope(summed, at, w), abs=1e-9)


@pytest.mark.parametrize(("lengths", "loss"), [((4, 4), 0.549055), ((4, 10), 0.825939), ((4, 6), 0.693147)])
def test_lndpo_2_and_3_lengths_can_turn_the_preference(
    pair: Callable[..., Pair], lengths: tuple[int, int], loss: float
) -> None:
    assert preference(LNDPO(beta=2.5), pair(-1.0, -1.5, lengths=lengths)) == pytest.approx(loss, abs=1e-6)
    assert preference(DPO(beta=2.5), pair(-1.0, -1.5, lengths=lengths)) < math.log(2)


@given(w=nats, l=nats, ref_w=nats, ref_l=nats)
def test_lndpo_5_it_is_simpo_with_a_margin_of_its_own(
    pair: Callable[..., Pair],
    w: float,
    l: float,  # noqa: E741
    ref_w: float,
    ref_l: float,
) -> None:
    gamma = 2.5 * (ref_w / 4 - ref_l / 6)
    it = pair(w, l, ref_w, ref_l, (4, 6))
    assert preference(LNDPO(beta=2.5), it) == pytest.approx(preference(SimPO(beta=2.5, gamma=gamma), it), abs=1e-12)


@given(w=nats, l=nats)
def test_lndpo_7_saying_everything_twice_changes_only_dpo(pair: Callable[..., Pair], w: float, l: float) -> None:  # noqa: E741
    once, twice = pair(w, l, 1.0, -2.0, (3, 5)), pair(2 * w, 2 * l, 2.0, -4.0, (6, 10))
    assert preference(LNDPO(), twice) == pytest.approx(preference(LNDPO(), once), abs=1e-12)
    assert DPO().z(twice).item() == pytest.approx(2 * DPO().z(once).item(), abs=1e-9)


def test_lndpo_6_padding_changes_nothing(example: Pair) -> None:
    def padded(side: Side) -> Side:
        assert side.reference is not None
        wider = [torch.nn.functional.pad(values, (0, 3)) for values in (side.logps, side.reference)]
        return replace(side, logps=wider[0], reference=wider[1])

    wider = replace(example, w=padded(example.w), l=padded(example.l))
    for objective in (LNDPO(), SimPO(), AlphaPO(), ORPO(), IPO(), LDDPO()):
        assert whole(objective, wider) == pytest.approx(whole(objective, example), abs=1e-12), type(objective).__name__


# Objectives that look at the whole batch


def batch_and_roles(pairs_of: Callable[..., Pairs], numbers: Any, B: int = 12) -> tuple[Pairs, Any, Any]:
    draw = torch.Generator().manual_seed(0)
    length = torch.randint(1, 6, (B, 2), generator=draw)
    length[0] = 5
    batch = pairs_of(length, torch.arange(B) % 2)
    policy, reference = (
        numbers(-torch.rand(B, 2, 5, generator=draw, dtype=torch.float64) * batch.mask) for _ in range(2)
    )
    return batch, policy, reference


def test_aot_compares_what_has_the_same_rank(pairs_of: Callable[..., Pairs], numbers: Any, prepared: Any) -> None:
    batch, policy, reference = batch_and_roles(pairs_of, numbers)
    rows = torch.arange(12)
    S, R = policy.values.detach().sum(-1), reference.values.detach().sum(-1)
    (S_w, S_l), (R_w, R_l) = ((v[rows, batch.label], v[rows, 1 - batch.label]) for v in (S, R))
    expected: dict[Objective, Tensor] = {
        AOT(beta=0.5): (S_w - S_l).sort().values - (R_w - R_l).sort().values,
        AOTUnpaired(beta=0.5): (S_w - R_w).sort().values - (S_l - R_l).sort().values,
    }
    for objective, D in expected.items():
        method = prepared(Pairwise(objective=objective, robust=Plain()), policy=policy, reference=reference)
        losses = method.loss(batch)[0].detach()
        wanted = -torch.nn.functional.logsigmoid(0.5 * D)
        torch.testing.assert_close(losses.sort().values, wanted.sort().values)
        torch.testing.assert_close(losses[(S_w - S_l if isinstance(objective, AOT) else S_w - R_w).argsort()], wanted)
        wrong = replace(batch, label=1 - batch.label)
        torch.testing.assert_close(
            method.loss(wrong)[0].detach().sum(), -torch.nn.functional.logsigmoid(-0.5 * D).sum()
        )


@given(B=st.integers(2, 20), seed=st.integers(0, 99))
def test_mismatched_pairs_are_of_others_whatever_the_order(B: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    batch = Pairs(
        index=torch.randperm(B, generator=draw),
        prompt=torch.ones(B, 1, dtype=torch.long),
        prompt_length=torch.ones(B, dtype=torch.long),
        response=torch.randint(1, 1000, (B, 2, 3), generator=draw),
        length=torch.full((B, 2), 3),
        mean_length=torch.tensor(3.0),
        label=torch.zeros(B, dtype=torch.long),
    )
    partner = {int(i): row for i, row in zip(batch.index, mismatched(batch).response, strict=True)}
    own = {int(i): row for i, row in zip(batch.index, batch.response, strict=True)}
    for i in range(B):
        assert torch.equal(partner[i], own[(i - B // 2) % B])
    order = torch.randperm(B, generator=draw)
    assert torch.equal(mismatched(batch.pick(order)).response, mismatched(batch).response[order])


def test_kto_takes_its_level_from_responses_to_other_prompts(prepared: Any, bandit: Any) -> None:
    policy, reference = (ExactPolicy(bandit.world, Linear(bandit.world)) for _ in range(2))
    policy.f.theta.data += 3 * bandit.world.theta
    batch = bandit.train.pairs.batch(np.arange(10))
    method = prepared(Pairwise(objective=KTO(beta=0.5), robust=Plain()), policy=policy, reference=reference)
    losses = method.loss(batch)[0]
    gap = (policy.table() - reference.table()).detach()
    prompt, partner = batch.prompt[:, 0], (torch.arange(10) - 5) % 10
    k = gap[prompt[:, None], batch.response[partner, :, 0]].mean().clamp(min=0)
    ratio = gap[prompt[:, None], batch.response[:, :, 0]]
    rows = torch.arange(10)
    c, r = 0.5 * ratio[rows, batch.label], 0.5 * ratio[rows, 1 - batch.label]
    torch.testing.assert_close(losses.detach(), 2 - (c - 0.5 * k).sigmoid() - (0.5 * k - r).sigmoid())
    alone = method.loss(batch.pick(slice(0, 1)))[0].detach()
    torch.testing.assert_close(alone, (2 - c.sigmoid() - (-r).sigmoid())[:1])


def test_wpo_in_the_bandit_by_hand(prepared: Any, bandit: Any) -> None:
    policy, reference = (ExactPolicy(bandit.world, Linear(bandit.world)) for _ in range(2))
    policy.f.theta.data += 3 * bandit.world.theta
    batch = bandit.train.pairs.batch(np.arange(10))
    losses = {
        kind: prepared(Pairwise(objective=kind(), robust=Plain()), policy=policy, reference=reference)
        .loss(batch)[0]
        .detach()
        for kind in (WPO, DPO)
    }
    p = policy.table().exp().detach()
    said = p[batch.prompt[:, :1], batch.response[..., 0]]
    weight = said.prod(1) / (p[batch.prompt[:, 0]] ** 2).sum(-1) ** 2
    torch.testing.assert_close(losses[WPO], weight * losses[DPO])


def test_kto_without_a_reference_that_can_score_is_refused_at_once(home: Any) -> None:
    with pytest.raises(PrefoptError, match=r"(?s)other prompts.*reference=copy"):
        run(composed(["method=dpo", "method/objective=kto", "dataset=bandit", "model=tabular"]))


def test_coupled_objectives_are_not_for_robustifiers_that_weigh_pairs() -> None:
    class Weighing(Plain):
        weighs = True

    for objective in (AOT(), AOTUnpaired(), KTO()):
        with pytest.raises(PrefoptError, match="couples the pairs"):
            Pairwise(objective=objective, robust=Weighing())
        assert Pairwise(objective=objective, robust=Plain()).coupled


# The reward shift of BCO


def test_the_shift_is_the_mean_of_all_rewards_seen_in_training(
    pairs_of: Callable[..., Pairs], numbers: Any, prepared: Any
) -> None:
    batch, policy, reference = batch_and_roles(pairs_of, numbers)
    objective = BCO(beta=0.5)
    method = prepared(Pairwise(objective=objective, robust=Plain()), policy=policy, reference=reference)
    ratio = 0.5 * (policy.values.detach() - reference.values.detach()).sum(-1)
    rows = torch.arange(12)
    c, r = ratio[rows, batch.label], ratio[rows, 1 - batch.label]

    def step(part: Pairs) -> Tensor:
        for memory in (objective,):
            memory.clear()
        losses = method.loss(part)[0].detach()
        objective.learn()
        return losses

    method.train()
    first = step(batch.pick(slice(0, 8)))
    logistic = torch.nn.functional.softplus
    torch.testing.assert_close(first, (logistic(-c) + logistic(r))[:8])
    shift = ratio[:8].mean()
    torch.testing.assert_close(objective.delta, shift)
    second = step(batch.pick(slice(8, 12)))
    torch.testing.assert_close(second, (logistic(shift - c) + logistic(r - shift))[8:])
    torch.testing.assert_close(objective.delta, ratio.mean())
    method.eval()
    method.loss(batch)
    torch.testing.assert_close(objective.delta, ratio.mean())
    again = BCO(beta=0.5)
    again.load_state_dict(objective.state_dict())
    assert torch.equal(again.delta, objective.delta) and torch.equal(again.seen, objective.seen)


# Named methods


def test_a_reference_is_not_made_for_objectives_without_one() -> None:
    for name in ("simpo", "alphapo", "cpo", "orpo", "slic"):
        parts = Parts(composed([f"method={name}", "dataset=bandit", "model=tabular"]))
        assert parts.method.roles == ("policy",)
        assert "reference" not in parts.settings["method"]["needs"]
