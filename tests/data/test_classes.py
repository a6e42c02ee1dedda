"""Classification data as an exact world: instances are contexts, classes their responses, labels choices."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prefopt.batch import Choices
from prefopt.config import composed
from prefopt.datasets.classes import Bundled, Classes, Prototypes
from prefopt.errors import PrefoptError
from prefopt.evaluation.pairs import sides
from prefopt.evaluation.subject import Subject
from prefopt.models.exact import Classifier, ExactReward
from prefopt.run import run

SMALL = ["dataset=prototypes", "dataset.instances=200", "dataset.test_instances=100", "dataset.classes=4"]
QUICK = ["trainer=cpu", "tracking=none", "rounds=2", "evaluation.times=1", "evaluation.figures=false"]


@pytest.mark.parametrize("dataset", [Prototypes(instances=60, test_instances=40, classes=3), Bundled(name="wine")])
def test_a_label_is_the_response_that_is_worth_something(dataset: Classes) -> None:
    data = dataset.load()
    assert data.world is not None
    for split in (data.train, data.test):
        batch = split.pairs.batch(np.arange(len(split.pairs)))
        assert isinstance(batch, Choices) and batch.n == 3
        assert (batch.response[..., 0] == torch.arange(3)).all()
        gold = data.world.reward(batch)
        assert torch.equal(gold, torch.from_numpy(split.truth.gold))
        assert torch.equal(gold.argmax(1), batch.label) and (gold.sum(1) == 1).all()
    contexts = [split.pairs.prompt.values for split in (data.train, data.test)]
    assert sorted(np.concatenate(contexts)) == list(range(len(contexts[0]) + len(contexts[1])))


def test_clouds_lie_around_as_many_prototypes_as_asked_for() -> None:
    world = Prototypes(instances=400, test_instances=1, classes=2, clouds=2, dimension=3, scale=1e3).load().world
    features, classes = world.features[:400, 0], world.rewards[:400].argmax(1)  # type: ignore[union-attr]
    near = torch.cdist(features, features) < 20
    clouds = near.unique(dim=0)
    assert len(clouds) == 4
    for cloud in clouds:
        assert len(classes[cloud].unique()) == 1
        assert features[cloud].std(0).tolist() == pytest.approx([1, 1, 1], abs=0.25)


def test_features_are_standardised_on_the_training_part_alone() -> None:
    data = Bundled(name="digits", held_out=0.4, seed=1).load()
    features = data.world.features[:, 0]  # type: ignore[union-attr]
    train = features[: len(data.train.pairs)]
    assert train.mean(0).abs().max() < 1e-9
    assert set(train.std(0, correction=0).round(decimals=9).tolist()) == {0.0, 1.0}, "some pixels are always white"
    assert features[len(train) :].mean(0).abs().max() > 1e-3
    assert np.bincount(data.test.truth.label).min() > 60


def test_a_seed_draws_its_own_data_and_always_the_same() -> None:
    for kind in (Prototypes, Bundled):
        one, again, other = (kind(seed=seed) for seed in (0, 0, 1))
        assert one.checksum() == again.checksum() != other.checksum()
        first, same, another = (made.load().world.features for made in (one, again, other))  # type: ignore[union-attr]
        assert torch.equal(first, same) and not torch.equal(first, another)


def test_a_classifier_reads_the_instance_and_gives_each_class_its_output() -> None:
    data = Prototypes(instances=30, test_instances=5, classes=3).load()
    f = Classifier(data.world, widths=(8,))
    batch = data.test.pairs.batch(np.arange(5))
    everything = f()
    assert everything.shape == (35, 3)
    torch.testing.assert_close(f.at(batch), everything[30:])
    torch.testing.assert_close(f.at(replace(batch, response=batch.response.flip(1))), everything[30:].flip(1))


def test_a_choice_is_right_where_no_rival_is_rated_as_high() -> None:
    data = Prototypes(instances=30, test_instances=50, classes=4).load()
    reward = ExactReward(Classifier(data.world, widths=(8,)))
    subject = Subject(act=None, score=reward.score, policy=None, start=None)
    rows = np.arange(50)
    with torch.no_grad():
        scores = reward.score(data.test.pairs.batch(rows)).numpy()
    label = data.test.truth.label
    value = sides(subject, data.test.pairs, label, 16, rows)["reward"]
    assert (value[:, 0] == scores[rows, label]).all()
    assert ((value[:, 0] > value[:, 1]) == (scores.argmax(1) == label)).all()
    assert (value[:, 1] == np.where(np.arange(4) == label[:, None], -np.inf, scores).max(1)).all()


def test_a_run_reports_its_accuracy_and_how_wrong_labels_stand_out(home: Path) -> None:
    stored = run(composed([*SMALL, *QUICK, "method=ldr", "method.lam=1", "noise=confused", "noise.rate=0.3"]))
    figures = json.loads(stored.results.read_text())["figures"]
    assert {"eval/rewards/accuracies", "noise/detect_auroc", "noise/lam_clean", "noise/lam_flipped"} <= figures.keys()
    assert not any(name.startswith("calibration/") for name in figures), "a choice among several is no pair"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["method=bradley_terry"], r"eats Pairs, and dataset=prototypes gives only Choices"),
        (["method=ldr", "noise=margin"], r"noise=margin turns preferences between two, .* choices among 4"),
    ],
)
def test_what_is_for_pairs_alone_refuses_choices(overrides: list[str], says: str, home: Path) -> None:
    with pytest.raises(PrefoptError, match=says):
        run(composed([*SMALL, *QUICK, *overrides]))


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        (Prototypes, {"instances": 19}),
        (Prototypes, {"test_instances": 0}),
        (Prototypes, {"classes": 1}),
        (Prototypes, {"clouds": 0}),
        (Prototypes, {"dimension": 0}),
        (Bundled, {"name": "cars"}),
        (Bundled, {"held_out": 1.0}),
    ],
)
def test_a_setting_that_makes_no_data_is_named(kind: type[Classes], setting: dict[str, object]) -> None:
    with pytest.raises(PrefoptError, match=rf"dataset.{next(iter(setting))}="):
        kind(**setting)
