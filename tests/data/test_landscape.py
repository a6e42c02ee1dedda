"""A landscape is what its docstring says, and is worth being fooled by."""

import numpy as np
import pytest
import torch

from prefopt.datasets.landscape import Landscape
from prefopt.errors import PrefoptError
from prefopt.evaluation.exact import beaten


def test_the_gold_reward_is_on_a_scale_of_its_own_and_decides_the_pairs() -> None:
    data = Landscape(pairs=500, test_pairs=1, contexts=5, responses=200, seed=3).load()
    world = data.world
    assert world is not None
    assert float(world.rewards.mean()) == pytest.approx(0, abs=1e-12)  # type: ignore[attr-defined]
    assert float(world.rewards.std(correction=0)) == pytest.approx(1)  # type: ignore[attr-defined]
    gold, label = data.train.truth.gold, data.train.truth.label
    assert (gold[np.arange(500), label] >= gold[np.arange(500), 1 - label]).mean() > 0.99


def test_tails_are_as_heavy_as_they_are_said_to_be() -> None:
    heavy, light = (
        Landscape(pairs=1, test_pairs=1, tail=tail, seed=0).make().features.flatten() for tail in (3.0, None)
    )
    assert float((light.abs() > 6).double().mean()) < 1e-7
    # P(|t| > 6) with 3 degrees of freedom is 0.00927
    assert float((heavy.abs() > 6).double().mean()) == pytest.approx(0.00927, rel=0.05)


@pytest.mark.parametrize(("key", "value"), [("tail", 0.0), ("curb", -1.0), ("temperature", 0.0)])
def test_what_is_out_of_range_is_named(key: str, value: float) -> None:
    with pytest.raises(PrefoptError, match=rf"dataset\.{key}="):
        Landscape(**{key: value})


def test_wins_over_a_law_are_those_of_all_pairs() -> None:
    draw = torch.Generator().manual_seed(0)
    r = torch.randint(5, (3, 7), generator=draw).double()
    law = torch.rand(3, 7, generator=draw, dtype=torch.float64).softmax(-1)
    above = (r[:, :, None] > r[:, None, :]).double() + 0.5 * (r[:, :, None] == r[:, None, :])
    torch.testing.assert_close(beaten(r, law), torch.einsum("cz,cyz->cy", law, above))
