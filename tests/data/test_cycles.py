"""The cyclic world: likes go round, kinds are told by features, and no index tells them."""

from typing import Any

import numpy as np
import pytest
import torch

from prefopt.datasets.cycles import Cycles
from prefopt.errors import PrefoptError


@pytest.fixture(scope="module")
def world() -> Any:
    return Cycles(contexts=200, test_contexts=50, noise=0.0, seed=1).load().world


def test_every_context_has_a_circle(world: Any) -> None:
    p = world.preferences
    assert torch.equal(p + p.mT, torch.ones_like(p))
    assert torch.equal(p.sum(-1), torch.full((250, 3), 1.5, dtype=torch.float64)), "nobody is preferred on the whole"
    assert sorted(p[0].flatten().tolist()) == [0.0] * 3 + [0.5] * 3 + [1.0] * 3


def test_the_features_of_a_kind_decide_who_is_preferred(world: Any) -> None:
    prototypes, kind = world.features.flatten(0, 1).unique(dim=0, return_inverse=True)
    assert len(prototypes) == 3
    kind = kind.view(250, 3)
    c, winner, loser = (world.preferences == 1).nonzero().T
    assert len({(int(a), int(b)) for a, b in zip(kind[c, winner], kind[c, loser], strict=True)}) == 3


def test_a_place_tells_nothing_of_the_kind(world: Any) -> None:
    share = (world.preferences[:, 0, 1] == 1).double().mean()
    assert abs(float(share) - 0.5) < 4 * 0.5 / np.sqrt(250)


def test_held_out_contexts_are_others() -> None:
    data = Cycles(contexts=20, test_contexts=5, seed=1).load()
    train, test = (np.unique(split.pairs.prompt.values) for split in (data.train, data.test))
    assert (len(train), len(test)) == (20, 5)
    assert not set(train) & set(test)
    assert (len(data.train.pairs), len(data.test.pairs)) == (60, 15)
    p: Any = data.world.preferences  # type: ignore[union-attr]
    batch: Any = data.test.pairs.batch(np.arange(15))
    y, rows = batch.response[..., 0], torch.arange(15)
    assert torch.equal(p[batch.prompt[:, 0], y[rows, batch.label], y[rows, 1 - batch.label]], torch.ones(15).double())


def test_noise_is_around_the_kinds_and_the_seed_draws_both() -> None:
    clean, noisy, other = (
        Cycles(contexts=500, test_contexts=1, noise=noise, seed=seed).load().world.features  # type: ignore[union-attr]
        for noise, seed in ((0.0, 0), (0.5, 0), (0.0, 1))
    )
    assert float((noisy - clean).std()) == pytest.approx(0.5, rel=0.03)
    assert not torch.allclose(clean, other)


@pytest.mark.parametrize("key", ["contexts", "test_contexts", "dimension"])
def test_a_world_without_something_is_refused(key: str) -> None:
    with pytest.raises(PrefoptError, match=rf"dataset\.{key}=0"):
        Cycles(**{key: 0})
