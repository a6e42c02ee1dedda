"""How well policies and clusters serve groups, against what is counted by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from prefopt.batch import Prompts
from prefopt.datasets.data import Data
from prefopt.datasets.populations import Populations
from prefopt.evaluation.gold import answered, distinct_prompts
from prefopt.evaluation.groups import answered_groups, clustered, enumerated_groups
from prefopt.models.exact import ExactPolicy, Table
from prefopt.table import Ragged
from prefopt.table import Table as Pairs


@pytest.fixture(scope="module")
def crowd() -> Data:
    return Populations(wants=((1, 1), (1, -1)), ratio=(3, 1), contexts=30, responses=5, test_pairs=4000, seed=3).load()


def test_a_policy_is_measured_by_each_groups_own_reward() -> None:
    """Two responses; group 0 likes the first by 4 and 2, group 1 the other by 1, and is indifferent at the second."""
    rewards = torch.tensor([[[4, 0], [2, 0]], [[0, 1], [5, 5]]], dtype=torch.float64)
    world = SimpleNamespace(group_rewards=rewards, reference=torch.full((2, 2), 0.5, dtype=torch.float64).log())
    figures = enumerated_groups(world, torch.tensor([[0.8, 0.2], [0.6, 0.4]], dtype=torch.float64).log())
    wins = [(0.8 * 0.75 + 0.2 * 0.25 + 0.6 * 0.75 + 0.4 * 0.25) / 2, (0.8 * 0.25 + 0.2 * 0.75 + 0.5) / 2]
    utilities = [(0.3 * 4 + 0.1 * 2) / 2 / np.sqrt((4 + 1) / 2), -0.3 / 2 / np.sqrt(0.25 / 2)]
    for what, (a, b) in (("win_rate", wins), ("utility", utilities)):
        assert figures[f"group/{what}/0"] == pytest.approx(a)
        assert figures[f"group/{what}/1"] == pytest.approx(b)
        assert figures[f"group/worst_{what}"] == pytest.approx(min(a, b))
        assert figures[f"group/mean_{what}"] == pytest.approx((a + b) / 2)
        assert figures[f"group/{what}_gap"] == pytest.approx(abs(a - b))


def test_the_reference_wins_half_and_is_worth_nothing(crowd: Data) -> None:
    world: Any = crowd.world
    figures = enumerated_groups(world, world.reference)
    assert [figures[f"group/win_rate/{u}"] for u in (0, 1)] == pytest.approx([0.5, 0.5])
    assert [figures[f"group/utility/{u}"] for u in (0, 1)] == pytest.approx([0, 0], abs=1e-12)


def test_answers_win_as_often_as_enumeration_says(crowd: Data) -> None:
    world: Any = crowd.world
    policy, start = (ExactPolicy(world, Table(world)) for _ in range(2))
    policy.f.values.data.copy_(world.group_rewards[0] / 2)  # type: ignore[union-attr, operator]
    rows = np.tile(distinct_prompts(crowd, 30), 100)
    ours, theirs = (
        answered(p.sample, crowd, rows, batch_size=500, seed=seed, device="cpu", proxy=None)
        for seed, p in enumerate((policy, start))
    )
    sampled, exact = answered_groups(world, ours, theirs), enumerated_groups(world, policy.table())
    for figure, value in sampled.items():
        assert value == pytest.approx(exact[figure], abs=4 * np.sqrt(0.25 / 3000) * 2), figure
    assert exact["group/win_rate/0"] > exact["group/win_rate/1"] + 0.2


def pairs_of(annotator: list[int], group: list[int] | None) -> Pairs:
    known = {"annotator": np.array(annotator)} | ({} if group is None else {"group": np.array(group)})
    one = Ragged.of([[0]] * len(annotator))
    return Pairs(kind=Prompts, ids=np.array(annotator), prompt=one, response=one, known=known)


def test_clusters_are_named_after_groups_as_well_as_can_be() -> None:
    pairs = pairs_of([0, 1, 2, 3, 0, 3], [1, 1, 0, 0, 1, 0])
    assert clustered(pairs, np.array([0, 0, 1, 1])) == {"group/cluster_accuracy": 1.0}
    assert clustered(pairs, np.array([1, 1, 0, 1])) == {"group/cluster_accuracy": 0.75}
    assert clustered(pairs, np.array([0, 1, 2, 2])) == {"group/cluster_accuracy": 0.75}
    assert clustered(pairs, np.array([0, 0, 0, 0])) == {"group/cluster_accuracy": 0.5}
    assert clustered(pairs_of([0, 1], None), np.array([0, 1])) == {}
    assert clustered(pairs_of([0, 1], [0, -1]), np.array([0, 1])) == {}
