"""Labels carried from one task to another: by hand, whatever frame a task is seen in, and what may go wrong."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefopt.datasets.trajectories import Trajectories
from prefopt.datasets.transfer import Coupling, aligned, distances
from prefopt.errors import PrefoptError
from prefopt.noise.flip import Flip
from prefopt.run import noisy

X, Y = np.array([0.0, 1, 3]), np.array([5.0, 4, 2])
Z = np.array([[0.5, 0, 0], [1, 0.5, 1], [1, 0, 0.5]])


def on_a_line(x: np.ndarray) -> np.ndarray:
    return np.abs(x[:, None] - x)


def cost(plan: np.ndarray, source: np.ndarray, target: np.ndarray) -> float:
    """The fourfold sum."""
    gap = (source[:, None, :, None] - target[None, :, None, :]) ** 2
    return float(np.einsum("ijkl,ij,kl", gap, plan, plan))


def descended(plan: np.ndarray) -> float:
    """The cost that POT gives this plan, which nothing improves upon, or the start of its descent."""
    from ot.gromov import gromov_wasserstein

    _, log = gromov_wasserstein(on_a_line(X), on_a_line(Y), G0=plan, symmetric=True, log=True)
    return float(log["loss"][0])


@pytest.mark.parametrize(
    ("plan", "expected"), [(np.eye(3) / 3, 0), (np.eye(3)[::-1] / 3, 4 / 9), (np.full((3, 3), 1 / 9), 8 / 3)]
)
def test_the_solver_minimises_the_cost_of_gromov_and_wasserstein(plan: np.ndarray, expected: float) -> None:
    assert cost(plan, on_a_line(X), on_a_line(Y)) == pytest.approx(expected, abs=1e-12)
    assert descended(plan) == pytest.approx(expected, abs=1e-12)


def test_the_solver_goes_down_the_gradient_of_that_cost() -> None:
    from ot.gromov import gwggrad, init_matrix

    source, target = on_a_line(X), on_a_line(Y)
    plan = np.random.default_rng(0).dirichlet(np.ones(9)).reshape(3, 3)
    p, q = plan.sum(1), plan.sum(0)
    ours = 2 * ((source**2 @ p)[:, None] + target**2 @ q - 2 * source @ plan @ target.T)
    assert gwggrad(*init_matrix(source, target, p, q), plan) == pytest.approx(ours)


def test_labels_go_where_the_coupling_sends_them() -> None:
    assert Coupling(np.eye(3) / 3, 0.0).transferred(Z) == pytest.approx(Z)
    blurred = np.array([[1 / 6, 1 / 6, 0], [1 / 6, 1 / 6, 0], [0, 0, 1 / 3]])
    labels = np.array([[0.5, 1, 0], [0, 0.5, 0], [1, 1, 0.5]])
    assert Coupling(blurred, 0.0).transferred(labels) == pytest.approx(
        np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [1, 1, 0.5]])
    )
    assert Coupling(np.full((3, 3), 1 / 9), 0.0).transferred(Z) == pytest.approx(np.full((3, 3), 0.5))


def runs(seed: int, size: int, dimension: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((size, 4, dimension)).cumsum(1)


def preferences(seed: int, size: int) -> np.ndarray:
    above = np.triu(np.random.default_rng(seed).integers(0, 3, (size, size)) / 2, 1)
    return above + np.tril(1 - above.T, -1) + np.eye(size) / 2


settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")
SEARCH = {"starts": 6, "iterations": 200, "seed": 0}


@given(seed=st.integers(0, 1000), sizes=st.tuples(st.integers(2, 6), st.integers(2, 6)))
def test_labels_of_the_target_are_preferences(seed: int, sizes: tuple[int, int]) -> None:
    source, target = runs(seed, sizes[0]), runs(seed + 1, sizes[1], 3)
    for coupling in aligned(distances(source), distances(target), **SEARCH):
        assert coupling.plan.sum(1) == pytest.approx(np.full(sizes[0], 1 / sizes[0]))
        assert coupling.plan.sum(0) == pytest.approx(np.full(sizes[1], 1 / sizes[1]))
        assert coupling.cost == pytest.approx(cost(coupling.plan, distances(source), distances(target)), abs=1e-9)
        z = coupling.transferred(preferences(seed, sizes[0]))
        assert z + z.T == pytest.approx(np.ones_like(z))
        assert np.diag(z) == pytest.approx(np.full(len(z), 0.5))


@given(seed=st.integers(0, 200))
def test_a_task_may_be_turned_and_moved_and_its_trajectories_come_in_any_order(seed: int) -> None:
    draws = np.random.default_rng(seed)
    source, target, labels = runs(seed, 5), runs(seed + 1, 5, 3), preferences(seed, 5)
    order, turn = draws.permutation(5), np.linalg.qr(draws.standard_normal((3, 3)))[0]
    turned = (target @ turn + draws.standard_normal(3))[order]
    first, again = (
        aligned(distances(source), distances(task), starts=1, iterations=200, seed=0)[0] for task in (target, turned)
    )
    assert again.cost == pytest.approx(first.cost, abs=1e-9)
    assert again.transferred(labels) == pytest.approx(first.transferred(labels)[order][:, order], abs=1e-6)


def test_a_task_that_is_its_own_mirror_image_has_a_second_minimum_that_turns_every_label() -> None:
    x = on_a_line(np.arange(3.0))
    labels = (np.sign(np.arange(3)[:, None] - np.arange(3)) + 1) / 2
    best, second = aligned(x, x, starts=20, iterations=60, seed=0)[:2]
    assert best.cost == pytest.approx(0, abs=1e-9)
    assert second.cost == pytest.approx(0, abs=1e-9)
    assert second.transferred(labels) == pytest.approx(1 - best.transferred(labels))


def test_trajectories_of_other_lengths_are_interpolated_to_the_shortest() -> None:
    line = np.linspace(0, 1, 13)[:, None] * np.array([1.0, 2.0])
    assert distances([line, line[::3] + 1, line[::4] * 2]) == pytest.approx(
        distances([line[::4], line[::4] + 1, line[::4] * 2])
    )


def test_a_task_of_one_trajectory_again_and_again_is_refused() -> None:
    with pytest.raises(PrefoptError, match="the same"):
        distances(np.ones((3, 4, 2)))


def test_a_coupling_that_has_not_converged_is_refused() -> None:
    source, target = distances(runs(0, 12)), distances(runs(1, 12, 3))
    with pytest.raises(PrefoptError, match=r"dataset.iterations=1: .*converged"):
        aligned(source, target, starts=3, iterations=1, seed=0)
    assert aligned(source, target, starts=3, iterations=60, seed=0)


# The world


def test_labels_that_were_transferred_count_as_noise_whose_mask_is_known() -> None:
    data = Trajectories(trajectories=20, sources=20).load()
    train, truth = data.train.pairs, data.train.truth
    assert len(train) == 190
    assert ((train.columns["label"] != truth.label) == truth.flipped).all()
    assert data.world is not None
    facts = data.world.facts  # type: ignore[attr-defined]
    assert facts["transfer/accuracy"] == pytest.approx(1 - truth.flipped.mean())
    assert 0.5 < facts["transfer/accuracy"] < 1
    assert facts["transfer/second_cost"] >= facts["transfer/cost"]
    again = data.train.relabelled(truth.label)
    assert (again.pairs.columns["label"] == truth.label).all() and not again.truth.flipped.any()


def test_noise_turns_the_labels_that_were_transferred() -> None:
    data = Trajectories(trajectories=20, sources=20).load()
    after = noisy(data, Flip(rate=0.3, assumed=0.3), seed=0).train
    turned = after.pairs.columns["label"] != data.train.pairs.columns["label"]
    assert turned.mean() == pytest.approx(0.3, abs=0.1)
    assert (after.truth.flipped == (turned ^ data.train.truth.flipped)).all()


def test_all_kinds_of_label_are_of_the_same_pairs_and_true_ones_are_right() -> None:
    kinds = {kind: Trajectories(labels=kind, trajectories=20).load() for kind in ("transferred", "nearest", "oracle")}
    ids = [data.train.pairs.ids.tolist() for data in kinds.values()]
    assert ids[0] == ids[1] == ids[2]
    assert not kinds["oracle"].train.truth.flipped.any()
    assert len({Trajectories(labels=kind).checksum() for kind in kinds}) == 3


def test_test_pairs_are_of_fresh_trajectories_with_true_labels() -> None:
    data = Trajectories(trajectories=10, fresh=30).load()
    assert data.test.pairs.response.values.min() >= 10 > data.train.pairs.response.values.max()
    assert (data.test.truth.gold[np.arange(2000), data.test.truth.label] >= data.test.truth.gold.min(1)).all()
    assert not data.test.truth.flipped.any()


def test_pairs_of_the_source_that_nobody_labelled_say_nothing() -> None:
    full, half = (Trajectories(source_share=share).load().world.facts["transfer/accuracy"] for share in (1.0, 0.5))  # type: ignore[union-attr]
    assert 0.5 < half < full


@pytest.mark.parametrize(
    ("chosen", "match"),
    [
        ({"labels": "guessed"}, "dataset.labels=guessed"),
        ({"source_share": 0.0}, "dataset.source_share=0"),
        ({"sources": 1}, "dataset.sources=1"),
        ({"starts": 0}, "dataset.starts=0"),
    ],
)
def test_what_makes_no_world_is_named(chosen: dict[str, Any], match: str) -> None:
    with pytest.raises(PrefoptError, match=match):
        Trajectories(**chosen)
