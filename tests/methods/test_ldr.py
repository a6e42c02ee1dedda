"""LDR's losses: the numbers of its paper, their limits, and what each example's temperature remembers."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from prefopt.batch import Choices
from prefopt.datasets.data import Data
from prefopt.errors import PrefoptError
from prefopt.methods.reward.ldr import LDR, psi, stepped
from prefopt.methods.reward.mae import MAE

F = (2.0, 0.5, -1.0)
Make = Callable[..., tuple[Any, Choices]]


@pytest.fixture
def choices(numbers: Any, prepared: Any) -> Make:
    """A method whose reward is free numbers [B, K], and the choices [B] among them."""

    def make(method: Any, rewards: Sequence[Sequence[float]], label: Sequence[int]) -> tuple[Any, Choices]:
        r = torch.tensor(rewards, dtype=torch.float64)
        ones = torch.ones(r.shape, dtype=torch.long)
        batch = Choices(
            index=torch.arange(len(r)),
            prompt=ones[:, :1],
            prompt_length=ones[:, 0],
            response=ones[..., None],
            length=ones,
            mean_length=torch.tensor(1.0),
            label=torch.tensor(label),
        )
        return prepared(method, reward=numbers(r[..., None])), batch

    return make


def plain(lam: float, alpha: float | None = None, margin: float = 0.0) -> LDR:
    """Without the normalisation, as the closed forms have it."""
    return LDR(lam=lam, alpha=alpha, margin=margin, normalised=False)


LOSSES = {
    (0, 0.0): {0: 0.0, 0.1: -0.109861, 1: -0.857301, 10: -1.425140, math.inf: -1.5},
    (0, 1.0): {0: 0.0, 0.1: -0.109190, 1: -0.543655, 10: -0.797793, math.inf: -0.833333},
    (2, 1.0): {0: 4.0, 1: 3.117664, 10: 2.300133, math.inf: 2.166667},
}


@pytest.mark.parametrize(("label", "margin"), LOSSES)
def test_the_losses_are_those_of_the_paper_and_fall_in_lam(label: int, margin: float, choices: Make) -> None:
    losses = []
    for lam, expected in LOSSES[label, margin].items():
        method, batch = choices(plain(lam, margin=margin), [F], [label])
        losses.append(method.loss(batch)[0].item())
        assert losses[-1] == pytest.approx(expected, abs=1e-6)
    assert losses == sorted(losses, reverse=True)


def test_at_lam_one_without_a_margin_it_is_cross_entropy_less_a_constant(choices: Make) -> None:
    draw = torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    label = torch.arange(8) % 5
    method, batch = choices(plain(1.0), draw.tolist(), label.tolist())
    losses, _ = method.loss(batch)
    torch.testing.assert_close(losses, cross_entropy(draw, label, reduction="none") - math.log(5))


def test_only_the_linear_loss_is_symmetric(choices: Make) -> None:
    def total(lam: float, f: Sequence[float]) -> float:
        method, batch = choices(plain(lam, margin=1.0), [f] * 3, [0, 1, 2])
        return method.loss(batch)[0].sum().item()

    assert total(math.inf, F) == pytest.approx(2.0) == total(math.inf, (-3.0, 0.0, 7.0))
    assert total(1.0, F) == pytest.approx(4.099270, abs=1e-6)
    assert total(1.0, (0.0, 0.0, 0.0)) != pytest.approx(4.099270, abs=1e-2)


@pytest.mark.parametrize("lam", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_the_gradient_is_the_worst_weighting_less_the_label(lam: float, margin: float, choices: Make) -> None:
    method, batch = choices(plain(lam, margin=margin), [F], [1])
    (gradient,) = torch.autograd.grad(method.loss(batch)[0].sum(), method.reward.values)
    raised = torch.tensor([F[0] + margin, F[1], F[2] + margin], dtype=torch.float64)
    expected = (raised / lam).softmax(0) - torch.tensor([0.0, 1.0, 0.0])
    torch.testing.assert_close(gradient[0, :, 0], expected)
    assert gradient.sum().item() == pytest.approx(0, abs=1e-12)


def gaps(f: Sequence[float], label: int, margin: float = 0.0) -> Tensor:
    """[1, K]"""
    others = torch.arange(len(f)) != label
    return (torch.tensor(f, dtype=torch.float64) - f[label] + margin * others)[None]


def settled(d: Tensor, *, start: float, alpha: float) -> float:
    lam = torch.full((1,), start, dtype=torch.float64)
    for _ in range(200):
        lam = stepped(d, lam, start=start, alpha=alpha)
    return lam.item()


def test_a_temperature_settles_where_the_paper_says_whatever_the_label(choices: Make) -> None:
    for label, loss in enumerate([-0.781005, 0.718995, 2.218995]):
        d = gaps(F, label)
        assert stepped(d, torch.ones(1), start=1.0, alpha=2.0).item() == pytest.approx(0.782895, abs=1e-6)
        assert settled(d, start=1.0, alpha=2.0) == pytest.approx(0.667588, abs=1e-6)
        method, batch = choices(plain(1.0, alpha=2.0), [F], [label])
        assert method.eval().loss(batch)[0].item() == pytest.approx(loss, abs=1e-6)
    logp = (gaps(F, 0) / 0.667588).log_softmax(1)
    assert float((logp.exp() * logp).sum() + math.log(3)) == pytest.approx(0.730383, abs=1e-6)


def test_the_margin_is_in_the_weighting_that_sets_the_temperature() -> None:
    """With c > 0 the classes beside the label are raised, so that the temperature depends on the label."""
    d = gaps(F, 1, margin=0.5)
    p = torch.tensor([F[0] + 0.5, F[1], F[2] + 0.5], dtype=torch.float64).softmax(0)
    kl = float((p * (3 * p).log()).sum())
    assert stepped(d, torch.ones(1), start=1.0, alpha=2.0).item() == pytest.approx(
        1 - kl / (2 * math.log(3)), abs=1e-12
    )
    assert settled(d, start=1.0, alpha=2.0) != pytest.approx(settled(gaps(F, 0, 0.5), start=1.0, alpha=2.0), abs=1e-2)


def test_adapting_never_lowers_the_loss(choices: Make) -> None:
    draw = 3 * torch.randn(50, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    label = (torch.arange(50) % 4).tolist()
    for lam in (0.3, 1.0, 10.0):
        fixed, batch = choices(plain(lam, margin=0.1), draw.tolist(), label)
        adaptive, _ = choices(plain(lam, alpha=1.5, margin=0.1), draw.tolist(), label)
        assert (adaptive.loss(batch)[0] >= fixed.loss(batch)[0] - 1e-12).all()
        assert (adaptive.eval().loss(batch)[0] >= fixed.loss(batch)[0] - 1e-12).all()
        nearly, _ = choices(plain(lam, alpha=1e9, margin=0.1), draw.tolist(), label)
        torch.testing.assert_close(nearly.loss(batch)[0], fixed.loss(batch)[0], rtol=1e-6, atol=1e-6)


def test_equal_scores_keep_the_temperature_and_one_far_ahead_lowers_it_to_its_least(choices: Make) -> None:
    method, batch = choices(plain(4.0, alpha=2.0), [[1.0, 1.0, 1.0], [1e6, 0.0, 0.0]], [0, 1])
    losses, metrics = method.loss(batch)
    assert metrics["noise/lam"].tolist() == pytest.approx([4.0, 2.0])
    assert losses[0].item() == pytest.approx(0, abs=1e-12)


def test_of_a_pair_it_is_the_logistic_loss_less_log_two(choices: Make) -> None:
    at = {3.0: (-0.644560, -0.337499, 0.51441), 0.0: (0.0, 0.716890, 1.0), -3.0: (2.355440, 3.653594, 0.51441)}
    for gap, (logistic, raised, lam) in at.items():
        for given, expected in ((plain(1.0), logistic), (plain(0.5, margin=1.0), raised)):
            method, batch = choices(given, [[gap, 0.0]], [0])
            assert method.loss(batch)[0].item() == pytest.approx(expected, abs=1e-6)
        method, batch = choices(plain(1.0, alpha=2.0), [[gap, 0.0]], [0])
        assert method.eval().loss(batch)[1]["noise/lam"].item() == pytest.approx(lam, abs=1e-5)


def test_scores_are_normalised_response_set_by_response_set(choices: Make) -> None:
    method, batch = choices(LDR(lam=1.0, alpha=None, margin=1.0), [[3.0, -1.0, 2.0], [300.0, -100.0, 200.0]], [1, 1])
    expected = psi(gaps((1.5, -0.5, 1.0), 1, margin=1.0), 1.0).item()
    assert method.loss(batch)[0].tolist() == pytest.approx([expected] * 2, abs=1e-6)


def test_a_score_of_nought_has_a_finite_gradient(choices: Make) -> None:
    method, batch = choices(LDR(), [[0.0, 0.0, 0.0]], [1])
    (gradient,) = torch.autograd.grad(method.loss(batch)[0].sum(), method.reward.values)
    assert gradient.isfinite().all()


def test_no_gradient_flows_through_the_temperature(choices: Make) -> None:
    adaptive, batch = choices(plain(1.0, alpha=2.0, margin=0.3), [F], [2])
    losses, metrics = adaptive.loss(batch)
    (gradient,) = torch.autograd.grad(losses.sum(), adaptive.reward.values)
    held, _ = choices(plain(metrics["noise/lam"].item(), margin=0.3), [F], [2])
    (expected,) = torch.autograd.grad(held.loss(batch)[0].sum(), held.reward.values)
    torch.testing.assert_close(gradient, expected)


def test_each_example_steps_from_its_own_temperature_and_only_when_it_is_visited(numbers: Any, bandit: Data) -> None:
    pairs = bandit.train.pairs
    scores = torch.randn(len(pairs), 2, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    method = LDR(lam=2.0, alpha=2.0, margin=0.1, normalised=False)
    method.prepare(
        {"reward": numbers(scores)},
        optimizer=torch.optim.SGD,
        schedule=lambda _: 1.0,
        micro_batch_size=None,
        clip=None,
        seed=0,
        data=pairs,
    )
    assert method.temperature is not None
    batch = pairs.batch(torch.tensor([5, 9, 40]).numpy())
    d = method._gaps(scores[batch.index, :, 0], batch.label)
    first = stepped(d, torch.full((3,), 2.0), start=2.0, alpha=2.0)
    second = stepped(d, first, start=2.0, alpha=2.0)
    for part in (batch.pick(slice(0, 2)), batch.pick(slice(2, 3))):
        method.loss(part)
    assert (method.temperature.lam == 2.0).all(), "a loss only takes notes"
    method.temperature.learn()
    method.temperature.clear()
    torch.testing.assert_close(method.temperature.lam[[5, 9, 40]], first)
    assert int((method.temperature.lam != 2.0).sum()) == 3
    losses, metrics = method.loss(batch)
    torch.testing.assert_close(metrics["noise/lam"], second)
    torch.testing.assert_close(losses, psi(d, second) - 2.0 * math.log(2) / 4.0 * (second - 2.0) ** 2)
    method.temperature.clear()
    method.eval().loss(batch)
    assert method.temperature.noted.sum() == 0, "evaluation remembers nothing"


def test_a_label_is_trusted_as_much_as_its_loss_leaves_it_alone(choices: Make) -> None:
    for method in (plain(0.7, margin=0.4), LDR(lam=2.0, alpha=1.5, margin=0.4)):
        method, batch = choices(method, [F, (0.0, -1.0, 0.3)], [1, 2])
        method.eval()
        leaf = method.reward.score(batch).detach().requires_grad_()
        d = method._gaps(leaf, batch.label)
        lam = torch.full((2,), 0.7) if method.alpha is None else method._lam(d.detach(), batch)
        (pull,) = torch.autograd.grad(psi(d, lam).sum(), d)
        torch.testing.assert_close(method.weigh(batch), pull.gather(1, batch.label[:, None])[:, 0])
    for lam in (0.0, math.inf):
        method, batch = choices(plain(lam), [F], [1])
        assert method.weigh(batch) is None


def test_the_mean_absolute_error_is_symmetric_and_twice_what_the_label_lacks(choices: Make) -> None:
    method, batch = choices(MAE(), [F] * 3, [0, 1, 2])
    losses, _ = method.loss(batch)
    p = torch.tensor(F, dtype=torch.float64).softmax(0)
    torch.testing.assert_close(losses, 2 * (1 - p))
    assert losses.sum().item() == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"lam": -1.0}, "lam"),
        ({"lam": math.nan}, "lam"),
        ({"alpha": 1.0}, "alpha"),
        ({"lam": 0.0, "alpha": 2.0}, "alpha"),
        ({"lam": math.inf, "alpha": 2.0}, "alpha"),
        ({"margin": -0.1}, "margin"),
        ({"margin": math.inf}, "margin"),
    ],
)
def test_a_setting_out_of_range_is_named(setting: dict[str, float], named: str) -> None:
    with pytest.raises(PrefoptError, match=rf"method.{named}="):
        LDR(**setting)
