"""Populations: who labelled what, by whose reward, and that no code gives a group away."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr

from prefopt.datasets.populations import Populations
from prefopt.errors import PrefoptError

WANTS = ((1.0, 1.5, 0.0), (1.0, 1.3, 1.0), (1.0, -1.5, 0.0))


def test_groups_want_what_their_row_says() -> None:
    world: Any = Populations(wants=WANTS, ratio=(1, 1, 1), contexts=400, scale=2.0, seed=1).load().world
    covariance = np.cov(world.group_rewards.flatten(1).numpy())
    np.testing.assert_allclose(covariance, 4 * np.array(WANTS) @ np.array(WANTS).T, atol=0.6)


def test_labels_follow_bradley_terry_on_the_reward_of_the_annotators_group() -> None:
    data = Populations(wants=WANTS, ratio=(2, 1, 1), pairs=20000, scale=0.7, seed=2).load()
    world: Any = data.world
    batch: Any = data.train.pairs.batch(np.arange(20000))
    r = world.group_reward(batch)[batch.group, range(20000)].numpy()
    p = 1 / (1 + np.exp(r[:, 1] - r[:, 0]))
    first = batch.label.numpy() == 0
    assert abs((first - p).sum()) < 4 * np.sqrt((p * (1 - p)).sum())
    surprise = (first - p) * (r[:, 0] - r[:, 1])
    assert abs(surprise.sum()) < 4 * np.sqrt((p * (1 - p) * (r[:, 0] - r[:, 1]) ** 2).sum())


@pytest.mark.parametrize(("ratio", "sizes"), [((10, 1), [40, 4]), ((1, 1), [22, 22]), ((2, 1), [29, 15])])
def test_annotators_are_of_groups_by_the_ratio_and_label_as_many_pairs_each(ratio: Any, sizes: list[int]) -> None:
    data = Populations(wants=WANTS[::2], ratio=ratio, annotators=44, pairs=528, test_pairs=440).load()
    for split, each in ((data.train, 12), (data.test, 10)):
        annotator, group = (np.asarray(split.pairs.known[name]) for name in ("annotator", "group"))
        assert np.bincount(annotator).tolist() == [each] * 44
        of = np.array([np.unique(group[annotator == a]).item() for a in range(44)])
        assert np.bincount(of).tolist() == sizes
    both = [dict(zip(s.pairs.known["annotator"], s.pairs.known["group"], strict=True)) for s in (data.train, data.test)]
    assert both[0] == both[1]


def test_an_annotators_code_does_not_tell_the_group() -> None:
    found = []
    for seed in range(40):
        known = Populations(wants=WANTS[::2], ratio=(1, 1), annotators=20, pairs=20, seed=seed).load().train.pairs.known
        found.append(pearsonr(known["annotator"], known["group"])[0])
        assert len(set(known["group"][known["annotator"] % 2 == 0])) == 2
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))


def test_gold_is_the_mean_of_the_groups_by_their_share() -> None:
    world: Any = Populations(wants=WANTS[::2], ratio=(10, 1), annotators=44).load().world
    np.testing.assert_allclose(world.rewards, (40 * world.group_rewards[0] + 4 * world.group_rewards[1]) / 44)
    pairs = Populations(wants=WANTS[::2], ratio=(10, 1)).load().test.pairs.batch(np.arange(5))
    assert world.group_reward(pairs).shape == (2, 5, 2)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"wants": ((1.0, 1.0), (1.0,))}, "no weight for each"),
        ({"wants": ((1.0,) * 9, (1.0,) * 9)}, "no weight for each"),
        ({"ratio": (1, 1, 1)}, "no ratio of 2 groups"),
        ({"ratio": (1, 0)}, "no ratio of 2 groups"),
        ({"ratio": (10, 1), "annotators": 5}, "leaves group 1 nobody"),
        ({"pairs": 0}, r"dataset\.pairs=0"),
        ({"responses": 1}, r"dataset\.responses=1"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(PrefoptError, match=said):
        Populations(**({"wants": WANTS[::2], "ratio": (1, 1)} | wrong))
