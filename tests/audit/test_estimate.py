"""Estimates on worlds whose flips are known: calibrated, blind to the truth, and honest where little can be known."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.stats import binom

from prefopt.audit.breakdown import UNKNOWN, Part, parts
from prefopt.audit.estimate import Estimate, confident, flip_rate, mixture, reliability
from prefopt.audit.features import FEWEST, differences
from prefopt.audit.findings import audited
from prefopt.audit.margins import out_of_fold
from prefopt.batch import Prompts
from prefopt.datasets.bandit import Bandit, BanditWorld
from prefopt.datasets.data import Data
from prefopt.errors import PrefoptError
from prefopt.evaluation.pairs import auroc
from prefopt.models.text import Tiny
from prefopt.noise.base import uniform

RATES = (0.0, 0.1, 0.2, 0.3, 0.4)
SEEDS = 8


@cache
def bandit(seed: int = 0, *, rate: float = 0.0, pairs: int = 2048, scale: float = 3.0) -> Data:
    """A bandit of decided preferences with this share of its training labels flipped."""
    data = Bandit(pairs=pairs, test_pairs=1, scale=scale, seed=seed).load()
    return flipped(data, uniform(data.train.pairs.ids, seed) < rate)


def flipped(data: Data, flips: np.ndarray) -> Data:
    return replace(
        data, train=data.train.relabelled(np.where(flips, 1 - data.train.truth.label, data.train.truth.label))
    )


def with_known(data: Data, **columns: np.ndarray) -> Data:
    pairs = data.train.pairs
    return replace(data, train=replace(data.train, pairs=replace(pairs, known={**pairs.known, **columns})))


def with_label(data: Data, label: np.ndarray) -> Data:
    pairs = data.train.pairs
    return replace(data, train=replace(data.train, pairs=replace(pairs, columns={"label": label})))


@cache
def margins_of(seed: int, rate: float) -> np.ndarray:
    data = bandit(seed, rate=rate)
    return out_of_fold(differences(data), data.train.pairs.columns["label"], seed=seed)


def covered(estimates: list[tuple[float, Estimate]]) -> int:
    return sum(found.low <= rate <= found.high for rate, found in estimates)


def unbiased(rates: list[float], rate: float) -> bool:
    """Whether the mean of the estimates is what it should be, within four of its standard errors."""
    return abs(np.mean(rates) - rate) <= 4 * np.std(rates, ddof=1) / np.sqrt(len(rates))


def test_intervals_of_known_flips_cover_as_often_as_they_say() -> None:
    """More by hand: tests/audit/coverage.py."""
    found = [(rate, reliability(margins_of(seed, rate))[0]) for rate in RATES for seed in range(SEEDS)]
    assert covered(found) >= binom.ppf(0.001, len(found), 0.9)
    for rate in RATES[1:]:
        assert unbiased([e.rate for r, e in found if r == rate], rate)


def test_the_other_estimators_follow_the_rate_under_their_own_assumptions() -> None:
    for rate in (0.1, 0.3):
        confidents = [confident(margins_of(seed, rate), seed=seed) for seed in range(SEEDS)]
        mixtures = [mixture(margins_of(seed, rate)) for seed in range(SEEDS)]
        assert unbiased([found.rate for found in confidents], rate)
        assert unbiased([found.rate for found in mixtures], rate)
        assert covered([(rate, found) for found in confidents]) >= SEEDS // 2


def test_margins_that_have_seen_their_label_cover_nothing() -> None:
    """The coverage test can fail: a model that may learn flips by heart explains them away."""
    rate, draws = 0.3, np.random.default_rng(0)
    label = np.sign(draws.standard_normal(500))
    seen = draws.standard_normal((500, 400))
    by_heart = label * (seen @ np.linalg.lstsq(seen, label, rcond=None)[0])
    assert reliability(by_heart)[0].high < rate


def test_text_gives_the_rate_too(home: object) -> None:
    from prefopt.datasets.reviews import Reviews

    dataset = Reviews(pairs=3000, test_pairs=2, demonstrations=2)
    data = dataset.load(Tiny().tokenizer(dataset, None))
    data = flipped(data, uniform(data.train.pairs.ids, 0) < 0.2)
    found = audited(data, seed=0)
    assert found.headline.sound and found.headline.low <= 0.2 <= found.headline.high
    assert auroc(-found.margins, data.train.truth.flipped) > 0.75
    assert {part.by for part in found.parts} == {"annotator", "group", "tokens of both responses"}
    thirds = [part for part in found.parts if part.by == "tokens of both responses"]
    assert sum(part.pairs for part in thirds) == 3000
    starts = [int(part.name.split(" to ")[0]) for part in thirds]
    assert len(thirds) == 3 and starts == sorted(starts)


def test_the_truth_is_not_looked_at() -> None:
    data = bandit(rate=0.2)
    truth = data.train.truth
    scrambled = replace(truth, label=1 - truth.label, flipped=~truth.flipped, gold=truth.gold[::-1])
    assert flip_rate(replace(data, train=replace(data.train, truth=scrambled)), seed=0) == flip_rate(data, seed=0)


def test_which_response_stands_first_does_not_matter() -> None:
    """All winners first is a batch of one label."""
    data = bandit(rate=0.2)
    pairs, label = data.train.pairs, data.train.pairs.columns["label"]
    both = pairs.response.values.reshape(-1, 2)
    winners_first = np.where(label[:, None] == 0, both, both[:, ::-1])
    turned = replace(pairs, response=replace(pairs.response, values=winners_first.ravel()))
    same = with_label(replace(data, train=replace(data.train, pairs=turned)), np.zeros_like(label))
    one, other = flip_rate(data, seed=0), flip_rate(same, seed=0)
    assert (one.rate, one.low, one.high) == pytest.approx((other.rate, other.low, other.high), abs=0.02)


def test_suspicion_is_the_posterior_of_a_flip_and_ranks_by_margin() -> None:
    data = bandit(rate=0.2)
    found = audited(data, seed=0)
    e, p = found.fit.rate, 1 / (1 + np.exp(-found.fit.scale * found.margins))
    assert found.suspicion == pytest.approx(e * (1 - p) / (e * (1 - p) + (1 - e) * p))
    assert len(found.suspicious) == round(found.headline.rate * len(found.margins))
    worst = found.suspicious[:200]
    expected = found.suspicion[worst]
    deviation = np.sqrt((expected * (1 - expected)).sum()) / len(worst)
    assert data.train.truth.flipped[worst].mean() == pytest.approx(expected.mean(), abs=3 * deviation)
    assert (np.diff(found.suspicion[found.suspicious]) <= 0).all()


def test_annotators_have_rates_of_their_own() -> None:
    data = bandit(pairs=4096)
    annotator = data.train.pairs.known["annotator"]
    true = np.array([0.05, 0.1, 0.3, 0.45, 0.0, 0.2, 0.1, 0.4])
    data = flipped(data, uniform(data.train.pairs.ids, 1) < true[annotator])
    found = {int(p.name): p.estimate for p in audited(data, seed=0).parts if p.by == "annotator"}
    assert covered([(true[k], found[k]) for k in range(8)]) >= binom.ppf(0.001, 8, 0.9)
    assert [found[k].rate for k in range(8)] == pytest.approx(true, abs=0.09)


def test_an_annotator_with_one_example_gets_no_number() -> None:
    data = bandit()
    names = np.where(np.arange(2048) == 7, "once", "often")
    data = with_known(data, annotator=(names == "often").astype(int), annotator_name=names)
    once = by_name(data)["once"]
    assert once.pairs == 1
    assert not once.estimate.sound and once.estimate.low == 0 and once.estimate.high - once.estimate.low > 0.25


def test_pairs_of_no_annotator_are_a_part_and_an_annotator_of_no_pair_is_none() -> None:
    codes = np.where(np.arange(2048) % 4 == 0, -1, np.arange(2048) % 4)
    names = np.array(["", "ann", "bob", "cy"])[np.arange(2048) % 4]
    found = by_name(with_known(bandit(), annotator=codes, annotator_name=names))
    assert {UNKNOWN, "ann", "bob", "cy"} <= found.keys() and found[UNKNOWN].pairs == 512


def test_one_group_is_no_breakdown() -> None:
    everything = np.zeros(2048, int)
    found = parts(with_known(bandit(), annotator=everything, group=everything).train.pairs, margins_of(0, 0.0))
    assert found == []


def by_name(data: Data) -> dict[str, Part]:
    return {part.name: part for part in parts(data.train.pairs, margins_of(0, 0.0))}


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_features_that_say_nothing_give_no_number(rate: float) -> None:
    data = bandit(scale=0.0, rate=rate, pairs=1000)
    found = flip_rate(data, seed=0)
    assert not found.sound and "tossed coin" in found.why
    assert found.low == 0 and found.high > 0.4 and found.rate < 0.5


def test_labels_that_are_all_tossed_coins_collapse_to_no_number_by_any_estimator() -> None:
    draws = np.random.default_rng(3)
    data = with_label(bandit(), draws.integers(2, size=2048))
    for found in audited(data, seed=0).estimates.values():
        assert not found.sound and found.low == 0 and found.high > 0.45 and found.rate < 0.5


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("margins", [np.zeros(200), np.where(np.arange(200) == 7, 1.0, 0.0)])
def test_margins_that_say_nothing_are_no_sign_of_clean_labels_to_confident_learning(margins: np.ndarray) -> None:
    found = confident(margins, seed=0)
    assert not found.sound and (found.low, found.high) == (0.0, 0.5)


@pytest.mark.filterwarnings("error")
def test_labels_none_of_which_is_contradicted_may_still_be_flipped_now_and_then() -> None:
    """Once in twenty, 200 labels flipped at the upper end are all right."""
    found = confident(np.ones(200), seed=0)
    assert (found.rate, found.low) == (0.0, 0.0)
    assert binom.pmf(0, 200, found.high) == pytest.approx(0.05)


def test_small_margins_widen_the_interval_rather_than_lie() -> None:
    found = flip_rate(bandit(scale=0.7, rate=0.2), seed=0)
    assert not found.sound and found.low <= 0.2 <= found.high


def test_the_same_seed_gives_the_same_estimate() -> None:
    assert flip_rate(bandit(rate=0.2), seed=3) == flip_rate(bandit(rate=0.2), seed=3)


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(PrefoptError, match="99 training pairs are too few"):
        flip_rate(bandit(pairs=FEWEST - 1), seed=0)


def test_data_without_pairs_are_refused() -> None:
    data = bandit()
    prompts = replace(data.train.pairs, kind=Prompts, columns={})
    with pytest.raises(PrefoptError, match="no labelled pairs"):
        flip_rate(replace(data, train=replace(data.train, pairs=prompts)), seed=0)


def in_world(features: object) -> Data:
    data = bandit()
    world = BanditWorld(contexts=64, responses=16, dimension=8, scale=3.0, temperature=1.0, seed=0)
    world.features = world.features * features
    return replace(data, world=world)


def test_responses_that_nothing_tells_apart_are_refused() -> None:
    with pytest.raises(PrefoptError, match="the same features"):
        flip_rate(in_world(0.0), seed=0)


def test_features_that_are_not_finite_are_refused_by_name() -> None:
    with pytest.raises(PrefoptError, match=r"2048 pairs are not finite, first of bandit-0-train-000000"):
        flip_rate(in_world(float("nan")), seed=0)
