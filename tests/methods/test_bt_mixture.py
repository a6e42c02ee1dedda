"""EM over annotators: worked numbers, a likelihood that never falls, and what an iteration does with nobody."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt.config import composed
from prefopt.datasets.data import Data
from prefopt.datasets.populations import Populations
from prefopt.errors import PrefoptError
from prefopt.evaluation.groups import clustered
from prefopt.methods.pairwise.robust.em import EM
from prefopt.methods.pairwise.robust.none import Plain
from prefopt.methods.reward.bradley_terry import BradleyTerry
from prefopt.methods.reward.bt_mixture import BTMixture
from prefopt.methods.reward.membership import Membership, reseeded
from prefopt.models.exact import ExactReward, Linear
from prefopt.run import run

OPPOSITE = ((1.0, 1.0), (1.0, -1.0))


def crowd(seed: int = 0, annotators: int = 8, each: int = 12, **more: Any) -> Data:
    given = {"wants": OPPOSITE, "ratio": (1, 1), "contexts": 8, "responses": 6, "dimension": 3} | more
    return Populations(annotators=annotators, pairs=annotators * each, test_pairs=16, seed=seed, **given).load()


def prepared(method: Any, data: Data, seed: int = 0) -> Any:
    method.prepare(
        {"reward": ExactReward(Linear(data.world))},
        optimizer=torch.optim.SGD,
        schedule=lambda _: 1.0,
        micro_batch_size=None,
        clip=None,
        seed=seed,
        data=data.train.pairs,
    )
    return method


def iterated(method: Any, data: Data, rounds: int) -> list[Tensor]:
    """Iterations with exact M-steps; the log-likelihood [R] after each."""
    batch: Any = data.train.pairs.batch(np.arange(len(data.train.pairs)))
    seen = []
    for round in range(rounds):
        m_step(method, batch)
        method.finish(round)
        seen.append(method.membership.explained.clone())
    return seen


def m_step(method: Any, batch: Any) -> None:
    parameters = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=100, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = method.loss(batch)[0].mean()
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize(("assignment", "q"), [("hard", [1, 0]), ("soft", [0.847511, 0.152489])])
def test_the_e_step_has_the_numbers_of_the_card(assignment: str, q: list[float]) -> None:
    margins = torch.tensor([[2, 1.5, -0.2], [-1, -0.5, 0.3]], dtype=torch.float64)
    ll = logsigmoid(margins).sum(-1)
    assert ll.tolist() == pytest.approx([-1.126480, -2.841694], abs=1e-6)
    data = crowd(annotators=4)
    membership = Membership(clusters=2, restarts=1, soft=assignment == "soft")
    membership.begin(data.train.pairs)
    membership.expect(torch.stack([ll, ll, ll.flip(0), ll.flip(0)])[None])
    assert membership.q[0, 0].tolist() == pytest.approx(q, abs=1e-6)
    assert membership.q[0, -1].tolist() == pytest.approx([0.5, 0.5])
    assert membership.assigned().tolist() == [0, 0, 1, 1]


@settings(max_examples=8)
@given(seed=st.integers(0, 2**31), clusters=st.integers(1, 4), assignment=st.sampled_from(["hard", "soft"]))
def test_the_likelihood_never_falls(seed: int, clusters: int, assignment: Any) -> None:
    data = crowd(seed, annotators=6, each=8)
    method = BTMixture(robust=Plain(), clusters=clusters, restarts=2, assignment=assignment)
    seen = torch.stack(iterated(prepared(method, data, seed), data, 5))
    assert (seen.diff(dim=0) > -1e-7).all(), seen
    assert (seen[0] > -np.log(2)).all()


def test_the_names_of_clusters_do_not_matter() -> None:
    data, found = crowd(), {}
    for order in itertools.permutations(range(3)):
        method = prepared(BTMixture(robust=Plain(), clusters=3, restarts=1), data)
        method.membership.q = method.membership.q[..., list(order)]
        seen = iterated(method, data, 4)
        theta = torch.stack([member.f.theta for member in method.reward.members]).detach()[np.argsort(order)]
        names = torch.tensor(order)[method.membership.assigned()]
        found[order] = (torch.stack(seen), names, theta)
    likelihood, names, theta = found[0, 1, 2]
    for other in found.values():
        torch.testing.assert_close(other[0], likelihood, rtol=0, atol=1e-7)
        assert torch.equal(other[1], names)
        torch.testing.assert_close(other[2], theta, rtol=0, atol=1e-3)


def test_one_cluster_is_the_bradley_terry_model() -> None:
    data = crowd()
    batch: Any = data.train.pairs.batch(np.arange(len(data.train.pairs)))
    single = prepared(BradleyTerry(robust=Plain()), data)
    mixture = prepared(BTMixture(robust=Plain(), clusters=1, restarts=1), data)
    m_step(single, batch)
    m_step(mixture, batch)
    torch.testing.assert_close(mixture.reward.score(batch), single.reward.score(batch), rtol=0, atol=1e-5)
    torch.testing.assert_close(mixture.loss(batch)[0], single.loss(batch)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("assignment", ["hard", "soft"])
def test_it_finds_the_groups_and_what_they_want(assignment: Any) -> None:
    data = crowd(annotators=16, each=30)
    world: Any = data.world
    method = prepared(BTMixture(robust=Plain(), restarts=4, assignment=assignment), data)
    iterated(method, data, 6)
    clusters = method.membership.assigned().numpy()
    assert clustered(data.train.pairs, clusters) == {"group/cluster_accuracy": 1.0}
    first, group = int(clusters[0]), int(data.train.pairs.known["group"][0])
    for offset in (0, 1):
        learned = method.reward.chosen.members[(first + offset) % 2].f().detach().flatten()
        true = world.group_rewards[(group + offset) % 2].flatten()
        assert np.corrcoef(learned, true)[0, 1] > 0.95


def test_the_best_restart_counts() -> None:
    data = crowd()
    method = prepared(BTMixture(robust=Plain(), restarts=3), data)
    (explained,) = iterated(method, data, 1)
    best = int(explained.argmax())
    assert best > 0 and len({round(float(value), 6) for value in explained}) == 3, "the restarts tell nothing"
    members = method.reward.members[2 * best : 2 * best + 2]
    batch: Any = data.test.pairs.batch(np.arange(16))
    expected = torch.stack([member.score(batch) for member in members]).mean(0)
    torch.testing.assert_close(method.reward.score(batch), expected)


def test_an_emptied_cluster_is_given_the_worst_explained_annotator() -> None:
    ll = torch.tensor([[-4.0, -9.0], [-6.0, -9.0], [-5.0, -9.0]])
    q = torch.tensor([[1.0, 0.0]] * 3)
    assert reseeded(q, ll, torch.tensor([1.0, 3.0, 1.0])).argmax(-1).tolist() == [0, 0, 1], "by the pair: -4, -2, -5"
    two_empty = torch.tensor([[1.0, 0.0, 0.0]] * 3)
    again = reseeded(two_empty, torch.cat([ll, ll[:, 1:]], 1), torch.ones(3))
    assert sorted(again.argmax(-1).tolist()) == [0, 1, 2]
    kept = torch.eye(3)
    assert torch.equal(reseeded(kept, ll.new_zeros(3, 3), torch.ones(3)), kept)


def test_em_goes_on_when_a_cluster_has_lost_everybody() -> None:
    data = crowd()
    method = prepared(BTMixture(robust=Plain(), restarts=1), data)
    method.membership.q = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(1, 9, 2).clone()
    seen = torch.stack(iterated(method, data, 4))[:, 0]
    assert torch.bincount(method.membership.assigned(), minlength=2).min() > 0
    assert (seen.diff() > -1e-7).all() and seen.isfinite().all()


def test_a_pair_of_an_unknown_annotator_counts_by_the_clusters_shares() -> None:
    data = crowd()
    method = prepared(BTMixture(robust=Plain(), restarts=1), data)
    iterated(method, data, 2)
    like = torch.zeros(3, dtype=torch.float64)
    shares = torch.bincount(method.membership.assigned(), minlength=2) / 8
    for annotator in (torch.tensor([-1, 8, 99]), None):
        q = method.membership.of(annotator, like)
        torch.testing.assert_close(q[0], shares.double()[:, None].expand(2, 3))


def test_what_cannot_be_is_refused() -> None:
    data = crowd()
    with pytest.raises(PrefoptError, match=r"method\.clusters=9, but 8 annotators"):
        prepared(BTMixture(robust=Plain(), clusters=9), data)
    for known in ({}, {"annotator": np.where(np.arange(96) < 7, -1, data.train.pairs.known["annotator"])}):
        anonymous = replace(data, train=replace(data.train, pairs=replace(data.train.pairs, known=known)))
        with pytest.raises(PrefoptError, match="do not say who labelled them"):
            prepared(BTMixture(robust=Plain()), anonymous)
    for key in ("clusters", "restarts", "passes"):
        with pytest.raises(PrefoptError, match=rf"method\.{key}=0"):
            BTMixture(robust=Plain(), **{key: 0})  # type: ignore[arg-type]
    with pytest.raises(PrefoptError, match="assignment=fuzzy"):
        BTMixture(robust=Plain(), assignment="fuzzy")  # type: ignore[arg-type]


def test_a_reward_that_has_run_away_is_named() -> None:
    data = crowd()
    method = prepared(BTMixture(robust=Plain(), restarts=1), data)
    method.reward.members[1].f.theta.data.fill_(torch.nan)
    with pytest.raises(PrefoptError, match="not finite"):
        method.finish(0)


def test_a_robustifier_tells_right_labels_from_wrong_by_the_annotators_cluster() -> None:
    """Of two opposite clusters one trusts each label and the other does not; the annotator's own one is asked."""
    data = crowd(wants=((1.0,), (-1.0,)), annotators=8, each=40)
    method = prepared(BTMixture(robust=EM(), restarts=2), data)
    iterated(method, data, 3)
    batch: Any = data.train.pairs.batch(np.arange(len(data.train.pairs)))
    trust = method.weigh(batch)
    turned = method.weigh(replace(batch, label=1 - batch.label))
    assert trust.shape == (320,)
    assert trust.mean() > 0.9 and turned.mean() < 0.6


def test_pairs_are_judged_by_the_cluster_of_who_labelled_them(home: Path) -> None:
    """Two groups that want the opposite: the mean of their rewards is at chance for both."""
    opposed = ["dataset.wants=[[1,1],[-1,-1]]", "dataset.ratio=[1,1]", "dataset=populations", "noise=none"]
    few = ["trainer=cpu", "tracking=none", "evaluation.figures=false", "evaluation.times=1", "rounds=5"]
    stored = run(composed(["method=bt_mixture", *opposed, *few]))
    found = json.loads(stored.results.read_text())["figures"]
    assert found["group/cluster_accuracy"] > 0.9
    assert found["group/worst_accuracy"] > 0.7
