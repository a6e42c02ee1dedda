"""Robustifiers: values, influence weights, limits, memory and domains; the exact checks of LCPO (arXiv 2509.24159).

Values are those of DPO losses at margins 1 and -2; u = L(-) - L(+) is the margin.
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
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.batch import Pairs
from prefopt.config import composed
from prefopt.datasets.data import Data
from prefopt.errors import PrefoptError
from prefopt.methods.pairwise.base import Pairwise, Robustifier
from prefopt.methods.pairwise.objectives.aot import AOT
from prefopt.methods.pairwise.objectives.cpo import CPO
from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.objectives.ipo import IPO
from prefopt.methods.pairwise.objectives.simpo import SimPO
from prefopt.methods.pairwise.pair import Pair
from prefopt.methods.pairwise.robust import reliability
from prefopt.methods.pairwise.robust.em import EM
from prefopt.methods.pairwise.robust.forward import Forward
from prefopt.methods.pairwise.robust.group_worst import GroupWorst
from prefopt.methods.pairwise.robust.holder import Holder
from prefopt.methods.pairwise.robust.none import Plain
from prefopt.methods.pairwise.robust.ropo import ROPO
from prefopt.methods.pairwise.robust.smoothing import Smoothing
from prefopt.methods.pairwise.robust.soft_label import SoftLabel
from prefopt.methods.pairwise.robust.tilt import Tilt
from prefopt.methods.pairwise.robust.trimmed import Trimmed
from prefopt.methods.pairwise.robust.unbiased import Unbiased
from prefopt.methods.pairwise.robust.winsorised import Winsorised
from prefopt.run import run

margins = st.floats(-30, 30)
several = st.lists(margins, min_size=1, max_size=20)


def tensor(values: Any, requires_grad: bool = False) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=requires_grad).reshape(-1)


@pytest.fixture(scope="session")
def batch_of(pairs_of: Callable[..., Pairs]) -> Callable[..., Pairs]:
    """B pairs with these codes of annotators and groups."""

    def make(size: int, annotator: Any = None, group: Any = None) -> Pairs:
        codes = {"annotator": annotator, "group": group}
        known = {name: torch.tensor(values) for name, values in codes.items() if values is not None}
        return replace(pairs_of(torch.ones(size, 2, dtype=torch.long), torch.zeros(size, dtype=torch.long)), **known)

    return make


def dpo(u: Tensor) -> tuple[Tensor, Tensor]:
    return -logsigmoid(u), -logsigmoid(-u)


def influence(robust: Robustifier, u: Tensor, batch: Pairs) -> Tensor:
    """[B] -d(sum of L^)/du."""
    u = u.clone().requires_grad_()
    return -torch.autograd.grad(robust(*dpo(u), batch).sum(), u)[0]


@pytest.mark.parametrize(
    ("robust", "values"),
    [
        (ROPO(alpha=14), [1.015079, 3.598457]),
        (Holder(gamma=2), [-0.821916, -0.039240]),
        (SoftLabel(epsilon=0.2, rho=0.1), [0.639753, 1.979910]),
        (Tilt(temperature=1), [0.855359, 0.855359]),
        (Tilt(temperature=1, upwards=True), [1.584831, 1.584831]),
        (Forward(epsilon=0.1), [-math.log(0.9 * 0.731058579 + 0.1 * 0.268941421), -math.log(0.1953623377)]),
        (Trimmed(epsilon=0.499), [0.313262, 2.126928]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values(robust: Robustifier, values: list[float], batch_of: Callable[..., Pairs]) -> None:
    assert robust(*dpo(tensor([1.0, -2.0])), batch_of(2)).tolist() == pytest.approx(values, abs=1e-6)


def test_trimmed_drops_the_largest_losses_of_a_batch_and_averages_the_others(batch_of: Callable[..., Pairs]) -> None:
    losses = Trimmed(epsilon=0.25)(*dpo(tensor([1.0, -2.0, 0.5, 3.0])), batch_of(4))
    kept = dpo(tensor([1.0, 0.5, 3.0]))[0]
    assert losses[1] == 0
    assert losses.mean().item() == pytest.approx(kept.mean().item(), abs=1e-12)


def test_trimmed_drops_none_of_a_batch_of_ties(batch_of: Callable[..., Pairs]) -> None:
    """As before the first step of a loss with a reference."""
    assert Trimmed(epsilon=0.4)(*dpo(tensor([0.0] * 8)), batch_of(8)).tolist() == [math.log(2)] * 8
    few = Trimmed(epsilon=0.29).trust(*dpo(torch.linspace(-2, 2, 100)), batch_of(100))
    assert few.sum() == 71, "0.29 x 100 is 28.999999999999996"


def test_winsorised_caps_the_tail_like_a_logarithm(batch_of: Callable[..., Pairs]) -> None:
    right = tensor([0.0, 1.0, 2.0, 3.0, 14.0])
    losses = Winsorised(tail=0.25)(right, right, batch_of(5))
    assert losses.tolist() == pytest.approx([0, 1, 2, 3, 3 + math.log(12)])


# Influence weights, as each docstring says


INFLUENCE: dict[str, tuple[Robustifier, Callable[[Tensor], Tensor]]] = {
    "none": (Plain(), lambda p: 1 - p),
    "smoothing": (Smoothing(epsilon=0.2), lambda p: 0.8 - p),
    "unbiased": (Unbiased(epsilon=0.2), lambda p: 1 - p + 0.2 / 0.6),
    "ropo": (ROPO(alpha=14), lambda p: 4 * 14 / 15**2 * (1 - p) * (1 + 14 * p)),
    "holder": (Holder(gamma=2), lambda p: 6 * p**2 * (1 - p) ** 2),
    "forward": (Forward(epsilon=0.2), lambda p: 0.6 * p * (1 - p) / (0.8 * p + 0.2 * (1 - p))),
    "em": (EM(reliability=0.9), lambda p: 0.9 * p / (0.9 * p + 0.1 * (1 - p)) - p),
}


@pytest.mark.parametrize("name", INFLUENCE)
@given(u=several)
def test_the_influence_of_a_pair_is_what_the_docstring_says(
    name: str, u: list[float], batch_of: Callable[..., Pairs]
) -> None:
    robust, weight = INFLUENCE[name]
    torch.testing.assert_close(
        influence(robust, tensor(u), batch_of(len(u))), weight(tensor(u).sigmoid()), rtol=1e-9, atol=1e-12
    )


@given(u=several, b=st.floats(0.1, 10))
def test_the_two_tilts_weigh_pairs_in_opposite_order(u: list[float], b: float, batch_of: Callable[..., Pairs]) -> None:
    x, right = tensor(u), dpo(tensor(u))[0]
    for upwards, sign in ((False, -1), (True, 1)):
        weight = len(u) * (sign * right / b).softmax(0)
        torch.testing.assert_close(
            influence(Tilt(temperature=b, upwards=upwards), x, batch_of(len(u))),
            weight * (-x).sigmoid(),
            rtol=1e-9,
            atol=1e-12,
        )


def test_ropo_weighs_most_at_its_peak_and_holder_redescends(batch_of: Callable[..., Pairs]) -> None:
    u = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    weight = influence(ROPO(alpha=14), u, batch_of(4001))
    assert u[weight.argmax()].item() == pytest.approx(-0.143, abs=0.01)
    assert weight.max() <= 1
    peak = influence(ROPO(alpha=14), tensor(13 / 28).logit(), batch_of(1))
    assert peak.item() == pytest.approx(1, abs=1e-12)
    assert weight[0].item() == pytest.approx(4 * 14 / 15**2, rel=1e-6)
    weight = influence(Holder(gamma=2), u, batch_of(4001))
    assert weight[0] < 1e-15 and weight[-1] < 1e-15
    assert weight.max().item() == pytest.approx(6 / 16, rel=1e-6)


@given(u=margins, rho=st.floats(0, 1), e=st.floats(0, 0.49))
def test_the_soft_label_is_the_worst_of_the_ball(u: float, rho: float, e: float) -> None:
    right, flipped = dpo(tensor(u))
    p = 1 - e
    q = np.linspace(0, 1, 2001)
    near = q[(q - p) ** 2 <= rho * p * (1 - p) + 1e-15]
    worst = max([(x * right + (1 - x) * flipped).item() for x in (*near, p)])
    value = SoftLabel(epsilon=e, rho=rho)(right, flipped, None).item()  # type: ignore[arg-type]
    assert worst - 1e-12 <= value <= worst + abs(u) / 2000 + 1e-12


# Limits


PLAIN: dict[str, Callable[[], Robustifier]] = {
    "forward": lambda: Forward(epsilon=0),
    "trimmed": lambda: Trimmed(epsilon=0),
    "soft_label": lambda: SoftLabel(epsilon=0, rho=0.3),
    "winsorised": lambda: Winsorised(tail=0),
    "group_worst": lambda: GroupWorst(step=1),
    "em": lambda: certain(EM()),
    "em weighted": lambda: certain(EM(m_step="weighted")),
}


def certain(em: EM, eta: float = 1.0) -> EM:
    em.reliability.eta.fill_(eta)
    return em


@pytest.mark.parametrize("name", PLAIN)
@given(u=several)
def test_without_noise_it_is_the_plain_objective(name: str, u: list[float], batch_of: Callable[..., Pairs]) -> None:
    x, robust, batch = tensor(u), PLAIN[name](), batch_of(len(u))
    torch.testing.assert_close(robust(*dpo(x), batch), dpo(x)[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(influence(robust, x, batch), (-x).sigmoid(), rtol=1e-9, atol=1e-12)


@given(u=several)
def test_a_hot_tilt_is_the_mean(u: list[float], batch_of: Callable[..., Pairs]) -> None:
    for upwards in (False, True):
        tilted = Tilt(temperature=1e7, upwards=upwards)(*dpo(tensor(u)), batch_of(len(u)))
        torch.testing.assert_close(tilted, dpo(tensor(u))[0].mean().expand(len(u)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "robust",
    [ROPO(), Holder(), Forward(), EM(), Tilt(temperature=0.01), Tilt(temperature=0.01, upwards=True), Winsorised()],
    ids=lambda robust: type(robust).__name__,
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_weights_that_underflow_stay_finite(
    robust: Robustifier, dtype: torch.dtype, batch_of: Callable[..., Pairs]
) -> None:
    u = tensor([-1e4, -100, 0, 100, 1e4]).to(dtype)
    assert robust(*dpo(u), batch_of(5)).isfinite().all()
    assert influence(robust, u, batch_of(5)).isfinite().all()


# Domains


@pytest.mark.parametrize(
    ("make", "says"),
    [
        *(
            (lambda e=e, r=r: r(epsilon=e), "outside")
            for e in (-0.1, 0.5, math.nan)
            for r in (Forward, Trimmed, SoftLabel)
        ),
        (lambda: Tilt(temperature=0), "temperature=0"),
        (lambda: Tilt(temperature=-1), "temperature=-1"),
        (lambda: Tilt(temperature=math.nan), "temperature=nan"),
        (lambda: Tilt(temperature=math.inf), "temperature=inf"),
        (lambda: ROPO(alpha=2), "alpha=2"),
        (lambda: Holder(gamma=0), "gamma=0"),
        (lambda: SoftLabel(rho=-0.1), "rho=-0.1"),
        (lambda: Winsorised(tail=1), "tail=1"),
        (lambda: GroupWorst(step=-1), "step=-1"),
        (lambda: EM(reliability=0.5), "reliability=0.5"),
        (lambda: EM(reliability=1), "reliability=1"),
        (lambda: EM(rate=0), "rate=0"),
        (lambda: EM(m_step="maximise"), "m_step=maximise"),  # type: ignore[arg-type]
    ],
)
def test_what_is_outside_the_domain_is_named(make: Callable[[], Robustifier], says: str) -> None:
    with pytest.raises(PrefoptError, match=says):
        make()


@pytest.mark.parametrize(
    "robust",
    [EM(), Tilt(), ROPO(), Holder(), Forward(), SoftLabel(), Trimmed(), Winsorised(), GroupWorst()],
    ids=lambda robust: type(robust).__name__,
)
def test_what_weighs_pairs_is_refused_where_they_are_coupled(robust: Robustifier) -> None:
    with pytest.raises(PrefoptError, match="couples the pairs of a batch"):
        Pairwise(objective=AOT(), robust=robust)


# LCPO


def test_lcpo_1_weights_losses_and_gradients(batch_of: Callable[..., Pairs]) -> None:
    u, em = tensor([0.5, 0.9, 0.1, 0.01]).logit(), EM(reliability=0.9)
    batch = batch_of(4)
    assert em.trust(*dpo(u), batch).tolist() == pytest.approx([0.9, 0.987805, 0.5, 0.083333], abs=1e-6)
    assert em(*dpo(u), batch).tolist() == pytest.approx([0.693147, 0.132156, 1.203973, 0.392977], abs=1e-6)
    assert influence(em, u, batch).tolist() == pytest.approx([0.4, 0.087805, 0.4, 0.073333], abs=1e-6)


def test_lcpo_2_the_estimate_moves_towards_the_mean_weight(batch_of: Callable[..., Pairs]) -> None:
    em, batch = EM(reliability=0.9, rate=0.1), batch_of(4)
    right, flipped = dpo(tensor([0.5, 0.9, 0.1, 0.01]).logit())
    assert em.trust(right, flipped, batch).mean().item() == pytest.approx(0.617785, abs=1e-6)
    em(right, flipped, batch)
    em.reliability.learn()
    assert em.reliability.eta.item() == pytest.approx(0.871778, abs=1e-6)
    assert em.facts()["noise/eps_hat"].item() == pytest.approx(1 - 0.871778, abs=1e-6)


@given(u=several)
def test_lcpo_3_a_coin_teaches_nothing(u: list[float], batch_of: Callable[..., Pairs]) -> None:
    weight = influence(certain(EM(), 0.5), tensor(u), batch_of(len(u)))
    torch.testing.assert_close(weight, torch.zeros_like(weight), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("start", "path"), [(0.9, [0.8797, 0.8619, 0.8471]), (0.55, [0.6347, 0.6892, 0.7246])])
def test_lcpo_4_the_population_map_converges_to_the_truth(
    start: float, path: list[float], batch_of: Callable[..., Pairs]
) -> None:
    """Two kinds of pairs, p* = 0.9 and 0.6, and their labels right with probability 0.8."""
    em, p = EM(reliability=start), tensor([0.9, 0.6])
    q = 0.8 * p + 0.2 * (1 - p)
    seen = []
    for _ in range(200):
        w = em.trust(*dpo(torch.cat([p, 1 - p]).logit()), batch_of(4))
        eta = (torch.cat([q, 1 - q]) * w).sum().item() / 2
        certain(em, eta)
        seen.append(eta)
    assert seen[:3] == pytest.approx(path, abs=1e-4)
    assert seen[-1] == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize(
    ("objective", "w", "p"),
    [
        (DPO(beta=0.1), 0.5, 0.512497),
        (IPO(tau=0.1, average=False), 0.05, 0.731059),
        (SimPO(beta=1.0, gamma=0.5), 1.0, 0.773352),
        (CPO(beta=0.1, alpha=1.0, average=False), 0.5, 0.634136),
    ],
    ids=["dpo", "ipo", "simpo", "cpo"],
)
def test_lcpo_5_what_the_policy_says_of_a_label(
    pair: Callable[..., Pair], batch_of: Callable[..., Pairs], objective: Any, w: float, p: float
) -> None:
    """With eta at 1/2 the weight is p; the anchor of CPO sits inside it."""
    em = certain(EM(), 0.5)
    method = Pairwise(objective=objective, robust=em)
    assert em.trust(*method._sides(pair(w), batch_of(1)), batch_of(1)).item() == pytest.approx(p, abs=1e-6)


@given(u=margins, eta=st.floats(0.51, 0.999))
def test_lcpo_6_the_logit_form_is_the_ratio(u: float, eta: float, batch_of: Callable[..., Pairs]) -> None:
    p = 1 / (1 + math.exp(-u))
    w = certain(EM(), eta).trust(*dpo(tensor(u)), batch_of(1)).item()
    assert w == pytest.approx(eta * p / (eta * p + (1 - eta) * (1 - p)), rel=1e-9)


def begun(robust: Any, data: Data, **known: Any) -> Any:
    """A robustifier that has seen the training pairs, with these columns in the place of their own."""
    codes = {name: np.array(values) for name, values in known.items()}
    table = replace(data.train.pairs, known={**data.train.pairs.known, **codes})
    for part in robust.modules():
        if hasattr(part, "begin"):
            part.begin(table)
    return robust


def test_lcpo_7_an_annotator_who_is_not_there_keeps_the_estimate(bandit: Data, batch_of: Callable[..., Pairs]) -> None:
    em = begun(EM(), bandit, annotator=[0, 1, 2, -1] * 16)
    right, flipped = dpo(tensor([2.0, -1.0, 0.5, -3.0]))
    em(right, flipped, batch_of(4, annotator=[0, 0, -1, -1]))
    before = em.reliability.eta.clone()
    em.reliability.learn()
    moved = em.reliability.eta != before
    assert moved.tolist() == [True, False, False, True]
    w = em.trust(right, flipped, batch_of(4, annotator=[1, 1, 1, 1]))
    em.reliability.clear()
    assert em.reliability.eta[0].item() == pytest.approx(0.9 + 0.1 * (w[:2].mean().item() - 0.9))


@given(u=several)
def test_lcpo_8_no_gradient_flows_through_the_weights(u: list[float], batch_of: Callable[..., Pairs]) -> None:
    em, x = EM(), tensor(u, requires_grad=True)
    right, flipped = dpo(x)
    w = em.trust(right, flipped, batch_of(len(u)))
    assert not w.requires_grad
    (gradient,) = torch.autograd.grad(em(right, flipped, batch_of(len(u))).sum(), x)
    p = x.detach().sigmoid()
    torch.testing.assert_close(gradient, p - w, rtol=1e-9, atol=1e-12)
    assert [name for name, _ in em.named_parameters()] == []


def test_for_dpo_the_two_m_steps_are_one_and_for_ipo_they_are_not(
    pair: Callable[..., Pair], batch_of: Callable[..., Pairs]
) -> None:
    for objective, same in ((DPO(), True), (IPO(average=False), False)):
        both = [
            Pairwise(objective=objective, robust=EM(m_step=step))._robust(pair(0.7), batch_of(1))  # type: ignore[arg-type]
            for step in ("likelihood", "weighted")
        ]
        assert torch.allclose(*both, rtol=1e-12) == same


# What is remembered


def test_em_notes_a_batch_part_by_part_and_each_once(bandit: Data, batch_of: Callable[..., Pairs]) -> None:
    u, annotator = torch.linspace(-3, 3, 12, dtype=torch.float64), [0, 1, 2] * 4
    estimates = []
    for size in (12, 5):
        em = begun(EM(), bandit, annotator=[0, 1, 2, 0] * 16)
        whole = batch_of(12, annotator=annotator)
        em(*dpo(u[:2]), batch_of(2))
        em.reliability.clear()
        for part in [*whole.split(size), replace(whole.pick(slice(0, 3)), weight=0.0)]:
            em(*dpo(u[part.index]), part)
        em.reliability.learn()
        estimates.append(em.reliability.eta)
    torch.testing.assert_close(*estimates, rtol=1e-12, atol=1e-12)


def test_nothing_is_learned_in_evaluation(bandit: Data, batch_of: Callable[..., Pairs]) -> None:
    for robust, state in ((EM(), "reliability.eta"), (GroupWorst(), "alpha")):
        begun(robust, bandit).eval()
        before = {name: value.clone() for name, value in robust.state_dict().items()}
        robust(*dpo(tensor([2.0, -1.0])), batch_of(2, annotator=[0, 1], group=[0, 1]))
        for part in robust.modules():
            if hasattr(part, "learn"):
                part.learn()
        assert torch.equal(robust.state_dict()[state], before[state])


def test_all_processes_learn_from_all_notes(
    bandit: Data, batch_of: Callable[..., Pairs], monkeypatch: pytest.MonkeyPatch
) -> None:
    u, annotator = tensor([2.0, -1.0, 0.5, -3.0]), [0, 1, 1, 0]
    alone = begun(EM(), bandit)
    alone(*dpo(u), batch_of(4, annotator=annotator))
    alone.reliability.learn()
    halves = [begun(EM(), bandit) for _ in range(2)]
    for rank, em in enumerate(halves):
        rows = slice(2 * rank, 2 * rank + 2)
        em(*dpo(u[rows]), batch_of(2, annotator=annotator[rows]))
    mean = (halves[0].reliability.noted + halves[1].reliability.noted) / 2
    monkeypatch.setattr(reliability.ranks, "mean", lambda _: mean)
    for em in halves:
        em.reliability.learn()
        torch.testing.assert_close(em.reliability.eta, alone.reliability.eta, rtol=1e-12, atol=0)


def test_an_annotator_with_one_example_is_moved_by_it_alone(bandit: Data, batch_of: Callable[..., Pairs]) -> None:
    em = begun(EM(rate=0.1), bandit, annotator=[0] * 63 + [1], annotator_name=["ann"] * 63 + ["bob"])
    right, flipped = dpo(tensor([1.0, -1.0, -4.0]))
    batch = batch_of(3, annotator=[0, 0, 1])
    w = em.trust(right, flipped, batch)
    em(right, flipped, batch)
    em.reliability.learn()
    assert em.facts()["noise/eps_hat/bob"].item() == pytest.approx(1 - (0.9 + 0.1 * (w[2].item() - 0.9)))
    assert em.facts()["noise/collapsed"] == 0


def test_data_without_annotators_have_one_estimate(bandit: Data, batch_of: Callable[..., Pairs]) -> None:
    table = replace(bandit.train.pairs, known={})
    em = EM()
    em.reliability.begin(table)
    em(*dpo(tensor([1.0, -1.0])), batch_of(2))
    em.reliability.learn()
    assert em.reliability.eta.shape == (1,) and em.reliability.eta.item() < 0.9
    assert set(em.facts()) == {"noise/eps_hat", "noise/collapsed"}


def test_what_any_tracker_takes_is_made_of_the_names_of_annotators(bandit: Data) -> None:
    called = ["a@b.com", "a#b.com", "Bob Ross", "../x", "née"]
    em = begun(EM(), bandit, annotator=[0, 1, 2, 3, 4, *[0] * 59], annotator_name=[*called, *called[:1] * 59])
    each = {name.removeprefix("noise/eps_hat/") for name in em.facts()}
    assert each == {"noise/eps_hat", "noise/collapsed", "a_b_com_0", "a_b_com_1", "Bob Ross", "___x", "née"}


def test_em_learns_from_batches_of_one_pair(batch_of: Callable[..., Pairs], capsys: pytest.CaptureFixture[str]) -> None:
    """A single p is like all others of its batch, which says nothing against it."""
    em, draw = EM(rate=0.05), np.random.default_rng(0)
    for _ in range(400):
        em.reliability.clear()
        em(*dpo(tensor([3.0 if draw.random() < 0.75 else -3.0])), batch_of(1))
        em.reliability.learn()
        em.reliability.tell()
    assert em.reliability.eta.item() == pytest.approx(0.75, abs=0.1)
    assert "collapsed" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("u", "what"), [([40.0] * 8, "p is 1 everywhere"), ([-40.0] * 8, "p is 0 everywhere"), ([-9.0, -8.0] * 4, "bound")]
)
def test_em_that_collapses_keeps_the_last_sound_estimate_and_says_so_once(
    u: list[float], what: str, batch_of: Callable[..., Pairs], capsys: pytest.CaptureFixture[str]
) -> None:
    em, etas = EM(rate=0.5), []
    for _ in range(12):
        em.reliability.clear()
        em(*dpo(tensor(u)), batch_of(8))
        em.reliability.learn()
        em.reliability.tell()
        etas.append(em.reliability.eta.item())
    assert all(0.5 < eta < 1 for eta in etas)
    assert etas[-1] == etas[-2]
    assert em.facts()["noise/collapsed"] > 0.99
    assert capsys.readouterr().err.count("EM has collapsed") == 1, what
    em.reliability.clear()
    em(*dpo(tensor([2.0, -2.0] * 4)), batch_of(8))
    em.reliability.learn()
    em.reliability.tell()
    assert em.facts()["noise/collapsed"] < 0.6
    assert em.reliability.eta.item() != etas[-1]
    assert "EM has collapsed" not in capsys.readouterr().err


def test_a_step_beyond_a_bound_is_no_collapse(
    batch_of: Callable[..., Pairs], capsys: pytest.CaptureFixture[str]
) -> None:
    em = EM(reliability=0.99, rate=0.1)
    for u in (20.0, 1.0) * 10:
        em.reliability.clear()
        em(*dpo(tensor([u, u - 0.1] * 4)), batch_of(8))
        em.reliability.learn()
        em.reliability.tell()
    assert 0.1 < em.facts()["noise/collapsed"] < 0.9
    assert "collapsed" not in capsys.readouterr().err


def test_em_has_not_collapsed_before_the_first_step(batch_of: Callable[..., Pairs]) -> None:
    """Policy and reference are one, p = 1/2 everywhere, w = eta: the estimate waits."""
    em = EM()
    em(*dpo(tensor([0.0] * 8)), batch_of(8))
    em.reliability.learn()
    assert em.reliability.eta.item() == pytest.approx(0.9, abs=1e-12)
    assert em.facts()["noise/collapsed"] == 0


# Groups


def test_group_weights_are_those_of_the_exponentiated_gradient(bandit: Data, batch_of: Callable[..., Pairs]) -> None:
    robust = begun(GroupWorst(step=0.5), bandit, group=[0, 0, 0, 1] * 16)
    right, flipped = dpo(tensor([1.0, 2.0, 0.5, -2.0]))
    batch = batch_of(4, group=[0, 0, 0, 1])
    losses = robust(right, flipped, batch)
    torch.testing.assert_close(losses, right * tensor([0.5 / 0.75] * 3 + [0.5 / 0.25]))
    assert losses.mean().item() == pytest.approx((right[:3].mean() / 2 + right[3] / 2).item())
    robust.learn()
    gain = np.exp(0.5 * np.array([right[:3].mean().item(), right[3].item()]))
    assert robust.alpha.exp()[:2].tolist() == pytest.approx(list(gain / gain.sum()), rel=1e-9)
    assert robust.facts()["group/weight/1"] > robust.facts()["group/weight/0"]


def test_a_group_that_was_forgotten_comes_back(bandit: Data, batch_of: Callable[..., Pairs]) -> None:
    """Weights far below the smallest number still move, in logarithms."""
    robust = begun(GroupWorst(step=100.0), bandit, group=[0, 1] * 32)
    for bad in (1, 0):
        for _ in range(50):
            robust.clear()
            losses = robust(
                tensor([50.0, 0.0] if bad == 0 else [0.0, 50.0]), tensor([0.0, 0.0]), batch_of(2, group=[0, 1])
            )
            assert losses.isfinite().all()
            robust.learn()
        if bad:
            assert robust.alpha.exp()[0] == 0
    assert robust.alpha.exp()[:2].tolist() == pytest.approx([0.5, 0.5], abs=1e-6)


def test_pairs_without_a_group_are_a_group_and_one_group_is_the_plain_objective(
    bandit: Data, batch_of: Callable[..., Pairs]
) -> None:
    right, flipped = dpo(tensor([1.0, -2.0, 0.3, 0.1]))
    robust = begun(GroupWorst(), bandit, group=[0, 0, 0, -1] * 16)
    batch = batch_of(4, group=[0, 0, -1, 7])
    torch.testing.assert_close(robust(right, flipped, batch), right * tensor([2 / 3, 2 / 3, 2, 2]))
    alone = begun(GroupWorst(step=1), bandit, group=[0] * 64)
    for _ in range(3):
        torch.testing.assert_close(alone(right, flipped, batch_of(4, group=[0] * 4)), right, rtol=1e-12, atol=0)
        alone.learn()


def test_data_without_groups_are_refused_before_the_first_step(bandit: Data) -> None:
    for known in ({}, {"group": np.full(64, -1)}):
        with pytest.raises(PrefoptError, match="group_worst needs groups, and these pairs have none"):
            GroupWorst().begin(replace(bandit.train.pairs, known=known))


def test_pairs_of_a_method_s_own_making_have_neither_groups_nor_margins(home: Any) -> None:
    """They would be one group of weight 1 among groups that are none."""
    for part in ("robust=group_worst", "objective=odpo"):
        sizes = ["model=tabular", "dataset.pairs=24", "dataset.test_pairs=8", "method.prompts=8", "tracking=none"]
        with pytest.raises(PrefoptError, match=f"{part} needs .* pairs of a method's own making have none"):
            run(composed(["method=online_dpo", f"method/{part}", "dataset=bandit", *sizes]))


@pytest.mark.parametrize("label", [0, 1])
def test_a_batch_of_one_label_is_as_any_other(
    label: int, pairs_of: Callable[..., Pairs], numbers: Any, prepared: Any
) -> None:
    """A label is a place in a random order: turning all of them with their responses changes nothing."""
    draw = torch.Generator().manual_seed(0)
    values = -torch.rand(6, 2, 1, generator=draw, dtype=torch.float64)
    batch = pairs_of(torch.ones(6, 2, dtype=torch.long), torch.full((6,), label))
    for robust in (EM(), Tilt(), Trimmed(), Winsorised(), Forward()):
        policy, reference = numbers(values if label == 0 else values.flip(1)), numbers(torch.zeros_like(values))
        method = prepared(Pairwise(objective=DPO(), robust=robust), policy=policy, reference=reference)
        first = robust(*dpo(0.1 * (values[:, 0, 0] - values[:, 1, 0])), batch)
        torch.testing.assert_close(method.loss(batch)[0], first, rtol=1e-12, atol=1e-12)
