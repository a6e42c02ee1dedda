"""CRM: which pairs each of two reward models learns from, in which order, and that neither leaks into the other."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from prefopt.batch import Groups, Pairs
from prefopt.config import composed
from prefopt.datasets.data import Data
from prefopt.errors import PrefoptError
from prefopt.methods.pairwise.crm_dpo import CRMDPO
from prefopt.methods.pairwise.robust.none import Plain
from prefopt.methods.reward.crm import CRM, kept_share
from prefopt.models.causal import frozen_copy
from prefopt.models.ensemble import Ensemble
from prefopt.models.exact import ExactModel, Table
from prefopt.run import run

A = (0.3, 1.2, -0.4, 0.9)
B = (2.0, -1.0, 0.5, 0.1)
SMALL = [
    *("dataset=landscape", "dataset.pairs=96", "dataset.test_pairs=64", "dataset.contexts=4", "dataset.responses=50"),
    *("trainer=cpu", "tracking=none", "rounds=3", "batch_size=32", "evaluation.figures=false", "evaluation.times=1"),
]


class Margins(nn.Module):
    """A reward model whose [N] margins of the recorded labels are free numbers."""

    def __init__(self, margins: Sequence[float]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.tensor(margins, dtype=torch.float64))

    def redraw(self, generator: torch.Generator) -> None:
        """They stay."""

    def score(self, groups: Any) -> Tensor:
        won = self.values[groups.index]
        return torch.stack([won, -won], 1).where(groups.label[:, None] == 0, torch.stack([-won, won], 1)) / 2


@pytest.fixture
def reviewed(pairs_of: Callable[..., Pairs]) -> Callable[..., tuple[CRM, Pairs]]:
    """CRM with these margins of the two models, after so many rounds, and a batch of all pairs."""

    def make(
        a: Sequence[float], b: Sequence[float], *, rate: float, data: Data | None = None, **settings: Any
    ) -> tuple[CRM, Pairs]:
        method = CRM(robust=Plain(), rate=rate, warm=1.0, **settings)
        method.prepare(
            {"reward": Margins(a)},
            optimizer=torch.optim.SGD,
            schedule=lambda _: 1.0,
            micro_batch_size=None,
            clip=None,
            seed=0,
            data=data.train.pairs if data else None,
        )
        method.reward = Ensemble([Margins(a), Margins(b)])
        method.told = torch.tensor([kept_share(1, rate=rate, warm=1.0), 1.0], dtype=torch.float64)
        return method, pairs_of(torch.ones(len(a), 2, dtype=torch.long), torch.arange(len(a)) % 2)

    return make


Reviewed = Callable[..., tuple[CRM, Pairs]]


@pytest.mark.parametrize(("rate", "expected"), [(0.5, {0, 2}), (0.25, {0, 2, 3}), (0.0, {0, 1, 2, 3})])
def test_each_model_learns_from_the_pairs_that_the_other_finds_easiest(
    rate: float, expected: set[int], reviewed: Reviewed
) -> None:
    method, batch = reviewed(A, B, rate=rate, order="none")
    method.loss(batch)[0].sum().backward()
    first, second = (member.values.grad for member in method.reward.members)
    assert set(first.nonzero()[:, 0].tolist()) == expected, "the pairs that B did not choose have no gradient"
    by_loss = (-torch.nn.functional.logsigmoid(torch.tensor(B))).argsort()[: len(expected)]
    assert set(by_loss.tolist()) == expected
    assert len(second.nonzero()) == len(expected)


def test_who_reviews_itself_keeps_what_it_finds_easiest(reviewed: Reviewed) -> None:
    method, batch = reviewed(A, B, rate=0.5, order="none", review="self")
    method.loss(batch)[0].sum().backward()
    assert set(method.reward.members[0].values.grad.nonzero()[:, 0].tolist()) == {1, 3}


def test_the_loss_is_a_mean_over_the_pairs_that_are_kept(reviewed: Reviewed) -> None:
    method, batch = reviewed((0.0, 2.0, -1.0, 0.0), B, rate=0.5, order="none")
    losses, metrics = method.loss(batch)
    losses.mean().backward()
    assert method.reward.members[0].values.grad.tolist() == pytest.approx([-0.25, 0.0, -0.365530, 0.0], abs=1e-6)
    a, b = (0.693147 + 1.313262) / 2, sum(math.log1p(math.exp(-m)) for m in (-1.0, 2.0)) / 2
    assert losses.mean().item() == pytest.approx(a + b, abs=1e-6)
    assert metrics["crm/kept"] == 0.5 and metrics["crm/agreement"] == 0.5


def test_no_gradient_of_one_model_s_loss_reaches_the_other(reviewed: Reviewed) -> None:
    method, batch = reviewed(A, B, rate=0.5, order="none")
    kept = method._kept(method._margins(batch))
    assert not kept.requires_grad
    losses, _ = method._each(batch)
    first, second = method.reward.members
    for loss, other in ((losses[0], second), (losses[1], first)):
        (leak,) = torch.autograd.grad(loss.sum(), other.values, retain_graph=True)
        assert (leak == 0).all()


@pytest.mark.parametrize("order", ["none", "cut", "sort_and_batch"])
@pytest.mark.parametrize("review", ["peer", "self"])
def test_names_do_not_matter(order: Any, review: Any, reviewed: Reviewed, bandit: Data) -> None:
    a, b = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)).tolist()
    one, batch = reviewed(a, b, rate=0.4, order=order, review=review)
    other, _ = reviewed(b, a, rate=0.4, order=order, review=review)
    assert torch.equal(one._kept(one._margins(batch)), other._kept(other._margins(batch)).flip(0))
    torch.testing.assert_close(one.loss(batch)[0], other.loss(batch)[0])
    if order != "none":
        ours, theirs = one._sorted(bandit.train.pairs, 0.6), other._sorted(bandit.train.pairs, 0.6)
        assert (ours == theirs[::-1]).all()


def test_less_is_kept_until_the_assumed_share_is_left_out() -> None:
    shares = [kept_share(t, rate=0.4, warm=4) for t in (0, 1, 2, 4, 9)]
    assert shares == pytest.approx([1.0, 0.9, 0.8, 0.6, 0.6])


def test_as_many_are_kept_as_the_share_says_rounded_up(reviewed: Reviewed) -> None:
    margins = torch.randn(2, 64, dtype=torch.float64)
    method, _ = reviewed(A, B, rate=0.4, order="none")
    assert method._kept(margins).sum(1).tolist() == [39, 39]
    assert method._kept(margins[:, :10]).sum(1).tolist() == [6, 6], "and not one more for a rounding error"


def test_a_cut_round_takes_each_model_from_what_the_other_finds_easy_to_what_it_finds_hard(
    reviewed: Reviewed, bandit: Data
) -> None:
    data = bandit.train.pairs
    a, b = torch.randn(2, 64, generator=torch.Generator().manual_seed(1)).tolist()
    method, _ = reviewed(a, b, rate=0.25, data=bandit)
    assert method.collect(data, 0) is data and method.rows is None
    method.collect(data, 1)
    rows = method.rows
    assert rows is not None and len(rows) == 48
    easiest = np.argsort(-np.array(b), kind="stable")[:48]
    assert (rows == easiest).all()
    batch: Any = data.batch(rows)
    assert method._seen(0, batch) is batch
    assert method._seen(1, batch).index.tolist() == np.argsort(-np.array(a), kind="stable")[:48].tolist()
    assert method.told.tolist() == [0.75, len(set(rows) & set(np.argsort(-np.array(a))[:48])) / 48]
    _, metrics = method.loss(batch)
    assert metrics["crm/agreement"] < 1


def test_measuring_changes_no_order(reviewed: Reviewed, bandit: Data) -> None:
    method, _ = reviewed([0.1] * 64, [0.2] * 64, rate=0.25, data=bandit)
    method.collect(bandit.train.pairs, 1)
    before = method.told.clone(), method.visits.clone()
    assert method.eval().collect(bandit.test.pairs, 0) is bandit.test.pairs
    assert torch.equal(before[0], method.told) and torch.equal(before[1], method.visits)


def test_a_sorted_round_goes_through_all_from_easy_to_hard(reviewed: Reviewed, bandit: Data) -> None:
    a, b = torch.randn(2, 64, generator=torch.Generator().manual_seed(2)).tolist()
    method, _ = reviewed(a, b, rate=0.25, data=bandit, order="sort_and_batch")
    method.collect(bandit.train.pairs, 2)
    assert method.rows is not None
    assert method.rows.tolist() == np.argsort(-(np.array(a) + np.array(b)), kind="stable").tolist()
    batch: Any = bandit.train.pairs.batch(method.rows[:8])
    assert method._seen(1, batch) is batch


def test_without_noise_to_leave_out_the_first_model_is_one_trained_alone_bit_for_bit(home: Path) -> None:
    reviewed = run(composed([*SMALL, "noise=none", "method=crm", "method.order=none"]))
    alone = run(composed([*SMALL, "noise=none", "method=rm_ensemble", "method.members=1"]))
    ours, theirs = (load_file(stored.policy / "0" / "exact.safetensors") for stored in (reviewed, alone))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_its_score_is_that_of_one_model(reviewed: Reviewed) -> None:
    method, batch = reviewed(A, B, rate=0.5)
    given: Groups = batch
    assert torch.equal(method.score(given), method.reward.members[0].score(given))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"rate": 0.51}, r"method.rate=0.51 is not in \[0, 0.5\]: above it most labels are wrong"),
        ({"rate": -0.1}, r"method.rate=-0.1"),
        ({"rate": 0.2, "warm": 0.0}, r"method.warm=0.0"),
        ({"rate": 0.2, "order": "sorted"}, r"method.order=sorted is not known"),
        ({"rate": 0.2, "review": "both"}, r"method.review=both is not known"),
    ],
)
def test_a_setting_out_of_range_is_named(setting: dict[str, Any], says: str) -> None:
    with pytest.raises(PrefoptError, match=says):
        CRM(robust=Plain(), **setting)


def test_5_on_a_bandit_crm_dpo_is_crm_with_the_policy_as_the_reward(bandit: Data, prepared: Callable[..., Any]) -> None:
    """With a uniform reference beta log pi / ref differs between responses as f does: the same losses and gradients."""
    model = ExactModel(parameters=Table)
    batch = bandit.train.pairs.batch(np.arange(16))
    policy: Any = model.policy(bandit, None, None)
    ours = CRMDPO(robust=Plain(), rate=0.4, beta=1.0)
    theirs = CRM(robust=Plain(), rate=0.4)
    prepared(ours, policy=policy, reference=frozen_copy(policy))
    prepared(theirs, reward=model.reward(bandit, None, None))
    for mine, other in zip(ours.reward.members, theirs.reward.members, strict=True):
        mine.policy.f.values.data.copy_(other.f.values)
    for method in (ours, theirs):
        method.told = torch.tensor([0.6, 1.0], dtype=torch.float64)
        method.loss(batch)[0].mean().backward()
    torch.testing.assert_close(ours.loss(batch)[0], theirs.loss(batch)[0])
    assert torch.equal(ours.weigh(batch), theirs.weigh(batch))
    for mine, other in zip(ours.reward.members, theirs.reward.members, strict=True):
        torch.testing.assert_close(mine.policy.f.values.grad, other.f.values.grad)
        assert other.f.values.grad.abs().sum() > 0


def test_crm_dpo_keeps_the_first_policy_and_no_second_reference(home: Path) -> None:
    bandit = ["dataset=bandit", "model=log_linear", "dataset.pairs=512", "dataset.test_pairs=64", "noise.rate=0.3"]
    few = ["trainer=cpu", "tracking=none", "rounds=5", "evaluation.figures=false", "evaluation.times=1"]
    stored = run(composed(["method=crm_dpo", *bandit, *few]))
    found = json.loads(stored.results.read_text())["figures"]
    assert found["noise/weight_clean"] > found["noise/weight_flipped"]
    assert found["gold/kl"] > 0 and found["eval/rewards/accuracies"] > 0.6
    assert [path.name for path in stored.policy.iterdir()] == ["exact.safetensors"]


def test_a_single_round_in_which_nothing_is_left_out_is_refused(home: Path) -> None:
    with pytest.raises(PrefoptError, match=r"rounds=1, and what method=crm is for begins in round 2"):
        run(composed([*SMALL, "method=crm", "rounds=1"]))
