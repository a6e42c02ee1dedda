"""MaxMin from samples: what each level raises, and that the worst-off group gains by it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from prefopt.datasets.data import Data
from prefopt.datasets.populations import Populations
from prefopt.errors import PrefoptError
from prefopt.evaluation.groups import enumerated_groups
from prefopt.methods.online.grpo import GRPO
from prefopt.methods.online.maxmin_grpo import MaxMinGRPO
from prefopt.models.ensemble import Ensemble
from prefopt.models.exact import ExactPolicy, Table
from prefopt.models.model import GoldOfGroup
from prefopt.models.scorer import mean

WANTS = ((1.0, 1.5, 0.0), (1.0, 1.3, 1.0), (1.0, -1.5, 0.0))


@pytest.fixture(scope="module")
def crowd() -> Data:
    return Populations(wants=WANTS, ratio=(1, 1, 1), contexts=10, responses=8, pairs=132, seed=2).load()


def judges(crowd: Data, groups: int) -> Ensemble:
    world: Any = crowd.world
    every = crowd.train.pairs.batch(np.arange(132))
    return Ensemble([GoldOfGroup(world, u) for u in range(groups)]).standardised([every], mean)


def ready(crowd: Data, prepared: Callable[..., Any], method: GRPO, groups: int = 3) -> Any:
    policy, reference = (ExactPolicy(crowd.world, Table(crowd.world)) for _ in range(2))
    return prepared(method, policy=policy, reference=reference, reward=judges(crowd, groups))


def test_weights_move_to_whoever_is_worse_off(crowd: Data, prepared: Callable[..., Any]) -> None:
    method = ready(crowd, prepared, MaxMinGRPO(eta=0.5), groups=2)
    r = torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]]], dtype=torch.float64)
    for step in (1, 2):
        weight = 1 / (1 + np.exp(0.5 * 2 * step))
        torch.testing.assert_close(method._served(r), weight * r[0])
        assert method.share.tolist() == pytest.approx([weight, 1 - weight])
    assert method.utility.tolist() == [2, 0]


def test_the_sample_level_takes_the_least_of_what_is_centred_in_each_prompts_group(
    crowd: Data, prepared: Callable[..., Any]
) -> None:
    method = ready(crowd, prepared, MaxMinGRPO(level="sample"), groups=2)
    r = torch.tensor([[[0.0, 2.0], [5.0, 5.0]], [[0.5, -0.5], [1.0, 2.0]]])
    expected = torch.tensor([[-1.0, -0.5], [-0.5, 0.0]])
    torch.testing.assert_close(method._served(r), expected)
    torch.testing.assert_close(method._served(r + torch.tensor([[[3.0], [-2.0]], [[0.0], [9.0]]])), expected)
    assert method.share.tolist() == [0.5, 0.5]


def test_with_one_group_its_samples_and_rewards_are_those_of_grpo(crowd: Data, prepared: Callable[..., Any]) -> None:
    ours, theirs = (
        ready(crowd, prepared, method, groups=1).collect(crowd.train.pairs, 0) for method in (MaxMinGRPO(), GRPO())
    )
    assert np.array_equal(ours.response.values, theirs.response.values)
    np.testing.assert_allclose(ours.columns["reward"], theirs.columns["reward"])


def test_the_worst_off_group_gains_by_it(crowd: Data, prepared: Callable[..., Any]) -> None:
    world: Any = crowd.world
    worst = {}
    for name, method in (("maxmin", MaxMinGRPO(beta=0.25)), ("mean", GRPO(beta=0.25))):
        ready(crowd, prepared, method)
        optimizer = torch.optim.Adam(method.policy.parameters(), lr=0.1)
        for round in range(60):
            loss = method.loss(method.collect(crowd.train.pairs, round).batch(np.arange(64)))[0].mean()  # type: ignore[arg-type]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        worst[name] = enumerated_groups(world, method.policy.table())["group/worst_utility"]
    assert worst["maxmin"] > worst["mean"] + 0.2, worst


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(PrefoptError, match=r"method\.level=token"):
        MaxMinGRPO(level="token")  # type: ignore[arg-type]
    for eta in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(PrefoptError, match=r"method\.eta="):
            MaxMinGRPO(eta=eta)
