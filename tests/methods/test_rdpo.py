"""The exact checks of robust DPO (arXiv 2403.00409). z is the implied reward margin of the recorded label."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import Tensor

from prefopt.config import composed
from prefopt.datasets.data import Data
from prefopt.errors import PrefoptError
from prefopt.evaluation import figures
from prefopt.methods.pairwise.base import Objective, Pairwise, Robustifier
from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.objectives.ipo import IPO
from prefopt.methods.pairwise.objectives.slic import SLiC
from prefopt.methods.pairwise.pair import Pair, Side
from prefopt.methods.pairwise.robust.none import Plain
from prefopt.methods.pairwise.robust.smoothing import Smoothing
from prefopt.methods.pairwise.robust.unbiased import Unbiased
from prefopt.models.exact import ExactPolicy, Linear
from prefopt.run import run

rates = st.floats(0, 0.49)
margins = st.floats(-30, 30)
ROBUST = {"dpo": lambda e: Plain(), "cdpo": lambda e: Smoothing(epsilon=e), "rdpo": lambda e: Unbiased(epsilon=e)}


def at(z: Tensor) -> Pair:
    """Pairs [B] of one-token responses whose summed log-ratios differ by z."""
    z = z.reshape(-1)
    one = torch.ones(len(z), dtype=torch.long)
    zero = torch.zeros(len(z), 1, dtype=z.dtype)
    return Pair(Side(z[:, None], zero, one), Side(zero, zero, one), mean_length=torch.tensor(1.0))


def losses(z: Tensor, robust: Robustifier, objective: Objective | None = None) -> Tensor:
    objective, pairs = objective or DPO(beta=1.0), at(z)
    return robust(objective.preference(pairs), objective.preference(pairs.swapped()), None)


def number(value: float, requires_grad: bool = False) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=requires_grad)


@given(z=margins, e=rates)
def test_1_losses_are_softplus_plus_a_linear_term(z: float, e: float) -> None:
    softplus = np.logaddexp(0, -z)
    for name, slope in (("dpo", 0), ("cdpo", e), ("rdpo", -e / (1 - 2 * e))):
        exact = pytest.approx(softplus + slope * z, abs=1e-12 * (1 + abs(slope * z)))
        assert losses(number(z), ROBUST[name](e)).item() == exact


@given(z=margins)
def test_1_without_noise_all_three_are_dpo_bit_for_bit(z: float) -> None:
    values = {}
    for name, robust in ROBUST.items():
        margin = number(z, requires_grad=True)
        loss = losses(margin, robust(0.0))
        loss.backward()
        assert margin.grad is not None
        values[name] = (loss.item(), margin.grad.item())
    assert values["cdpo"] == values["dpo"]
    assert values["rdpo"] == values["dpo"]


@pytest.mark.parametrize(
    ("e", "z", "dpo", "cdpo", "rdpo"),
    [
        (0.1, 1, 0.313262, 0.413262, 0.188262),
        (0.1, -2, 2.126928, 1.926928, 2.376928),
        (0.3, 1, 0.313262, 0.613262, -0.436738),
        (0.3, 3, 0.048587, 0.948587, -2.201413),
        (0.4, 1, 0.313262, 0.713262, -1.686738),
    ],
)
def test_2_values(e: float, z: float, dpo: float, cdpo: float, rdpo: float) -> None:
    values = [losses(number(z), robust(e)).item() for robust in ROBUST.values()]
    assert values == pytest.approx([dpo, cdpo, rdpo], abs=1e-6)


def test_2_gradients() -> None:
    gradients = []
    for robust in ROBUST.values():
        z = number(1.0, requires_grad=True)
        gradients.append(torch.autograd.grad(losses(z, robust(0.3)), z)[0].item())
    assert gradients == pytest.approx([-0.268941, 0.031059, -1.018941], abs=1e-6)


@given(z=margins, e=rates)
def test_3_the_expectation_over_the_flip_is_the_clean_loss(z: float, e: float) -> None:
    """For every objective: what depends on the label is unbiased."""
    for objective in (DPO(beta=1.0), DPO(beta=0.1), IPO(tau=0.1), IPO(tau=0.5, average=False), SLiC(delta=1.0)):
        right, wrong = (losses(number(sign * z), Unbiased(epsilon=e), objective).item() for sign in (1, -1))
        clean = objective.preference(at(number(z))).item()
        scale = abs(right) + abs(wrong) + 1
        assert (1 - e) * right + e * wrong == pytest.approx(clean, abs=1e-12 * scale)


def test_3_values_of_the_wrapped_ipo_and_hinge() -> None:
    """SLiC's preference part is the hinge, on log-probs in the place of log-ratios."""
    assert losses(number(0.5), Unbiased(epsilon=0.3), IPO(tau=0.1)).item() == pytest.approx(12.75, abs=1e-9)
    assert losses(number(0.05), Unbiased(epsilon=0.3), SLiC(delta=1.0)).item() == pytest.approx(0.875, abs=1e-9)


@pytest.mark.parametrize(("e", "variance"), [(0.1, 0.237656), (0.3, 2.218125), (0.4, 10.14)])
def test_4_flip_variance(e: float, variance: float) -> None:
    right, wrong = (losses(number(sign * 1.3), Unbiased(epsilon=e)).item() for sign in (1, -1))
    assert e * (1 - e) * (right - wrong) ** 2 == pytest.approx(variance, abs=1e-6)
    flipped = np.random.default_rng(0).random(100_000) < e
    drawn = np.where(flipped, wrong, right)
    kurtosis = ((drawn - drawn.mean()) ** 4).mean()
    assert drawn.var() == pytest.approx(variance, abs=3 * math.sqrt((kurtosis - variance**2) / len(drawn)))


def minimiser(true: float, robust: Robustifier) -> float:
    """The z that minimises the loss in expectation over labels that are right with probability sigmoid(1), then
    flipped at rate `true`."""
    p = 1 / (1 + math.exp(-1))
    q = (1 - 2 * true) * p + true

    def slope(value: float) -> float:
        z = number(value, requires_grad=True)
        expected = q * losses(z, robust) + (1 - q) * losses(-z, robust)
        return torch.autograd.grad(expected, z)[0].item()

    return brentq(slope, -20, 20, xtol=1e-12)


@pytest.mark.parametrize(
    ("e", "dpo", "cdpo"), [(0.1, 0.776137, 0.609722), (0.3, 0.373993, 0.148148), (0.4, 0.185376, 0.036974)]
)
def test_5_what_each_loss_converges_to(e: float, dpo: float, cdpo: float) -> None:
    assert [minimiser(e, robust(e)) for robust in ROBUST.values()] == pytest.approx([dpo, cdpo, 1.0], abs=1e-6)


@pytest.mark.parametrize(("assumed", "z"), [(0.1, 0.470615), (0.2, 0.636841), (0.35, 1.437570)])
def test_5_what_a_wrong_rate_converges_to(assumed: float, z: float) -> None:
    assert minimiser(0.3, Unbiased(epsilon=assumed)) == pytest.approx(z, abs=1e-6)


@given(e=st.floats(0, 0.45), beta=st.floats(0.05, 1))
def test_6_robust_ipo_is_ipo_with_a_smaller_beta_and_a_constant(e: float, beta: float) -> None:
    h = torch.linspace(-8, 8, 9, dtype=torch.float64, requires_grad=True)
    robust, plain = losses(h, Unbiased(epsilon=e), IPO(tau=beta)), losses(h, Plain(), IPO(tau=beta * (1 - 2 * e)))
    gradients = [torch.autograd.grad(loss.sum(), h)[0] for loss in (robust, plain)]
    scale = float(robust.detach().abs().max() + plain.detach().abs().max())
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12 * scale)
    difference = (robust - plain).detach()
    torch.testing.assert_close(difference, difference[:1].expand(9), rtol=0, atol=1e-12 * scale)


def test_7_the_gradient_in_a_log_linear_policy_is_that_of_logistic_regression(
    bandit: Data, prepared: Callable[..., Any]
) -> None:
    """On pseudo-labels y^ = (y~ - e) / (1 - 2 e), and the Hessian does not depend on e."""
    beta, hessians = 0.7, []
    for e in (0.0, 0.1, 0.4):
        world: Any = bandit.world
        policy, reference = ExactPolicy(world, Linear(world)), ExactPolicy(world, Linear(world))
        method = prepared(
            Pairwise(objective=DPO(beta=beta), robust=Unbiased(epsilon=e)), policy=policy, reference=reference
        )
        f: Any = policy.f
        theta = torch.tensor([0.3, -1.2, 0.8], dtype=torch.float64)
        batch: Any = bandit.train.pairs.batch(np.arange(64))
        phi = world.features[batch.prompt[:, :1], batch.response[..., 0]]
        dphi = phi[:, 0] - phi[:, 1]
        first = (batch.label == 0).double()
        pseudo = (first - e) / (1 - 2 * e)
        expected = (((beta * dphi @ theta).sigmoid() - pseudo)[:, None] * beta * dphi).mean(0)

        f.theta.data.copy_(theta)
        loss = method.loss(batch)[0].mean()
        (gradient,) = torch.autograd.grad(loss, f.theta, create_graph=True)
        torch.testing.assert_close(gradient.detach(), expected, rtol=1e-12, atol=1e-13)
        hessians.append(torch.stack([torch.autograd.grad(g, f.theta, retain_graph=True)[0] for g in gradient]))
    for hessian in hessians[1:]:
        torch.testing.assert_close(hessian, hessians[0], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("e", [0.0, 0.1, 0.4])
def test_8_the_second_derivative_is_that_of_the_logistic_loss(e: float) -> None:
    z = torch.linspace(-6, 6, 13, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(losses(z, Unbiased(epsilon=e)).sum(), z, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), z)
    torch.testing.assert_close(curvature, (z.sigmoid() * (-z).sigmoid()).detach(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("robust", [Smoothing, Unbiased])
@pytest.mark.parametrize("epsilon", [-0.1, 0.5, 0.7, float("nan")])
def test_a_rate_that_cannot_be_corrected_is_refused(robust: type[Robustifier], epsilon: float) -> None:
    with pytest.raises(PrefoptError, match=r"outside \[0, 0\.5\)"):
        robust(epsilon=epsilon)


SMALL = ["dataset=bandit", "model=log_linear", "tracking=none", "dataset.pairs=64", "dataset.test_pairs=8", "rounds=2"]


@pytest.fixture
def trained(home: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., bytes]:
    """The exported weights of a run, which draws no figures."""
    for drawing in ("learning_curves", "margin_histogram"):
        monkeypatch.setattr(figures, drawing, lambda *_: [])
    return lambda *overrides: (run(composed([*SMALL, *overrides])).policy / "exact.safetensors").read_bytes()


def test_a_run_that_assumes_no_noise_is_a_run_of_dpo(trained: Callable[..., bytes]) -> None:
    dpo = trained("method=dpo", "noise.rate=0.3")
    assert trained("method=rdpo", "noise.rate=0.3", "noise.assumed=0") == dpo
    assert trained("method=cdpo", "noise.rate=0.3", "noise.assumed=0") == dpo
    assert trained("method=rdpo", "noise.rate=0.3") != dpo


def test_noise_at_rate_zero_is_no_noise(trained: Callable[..., bytes]) -> None:
    clean = trained("method=rdpo", "noise=none", "noise.assumed=0.2")
    assert trained("method=rdpo", "noise=flip", "noise.rate=0", "noise.assumed=0.2") == clean
    assert trained("method=rdpo", "noise=flip", "noise.rate=0.2", "noise.assumed=0.2") != clean
