"""Label noise: fixed by (id, seed), nested in the rate, and of the kind that it says."""

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import get_class
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from prefopt.batch import Choices, Pairs
from prefopt.errors import PrefoptError
from prefopt.noise.base import Noise, Recorded, uniform
from prefopt.table import Ragged, Table

CONF = Path(__file__).resolve().parent.parent / "conf" / "noise"
KINDS = [
    "flip",
    "confused",
    "asymmetric",
    "temperature",
    "margin",
    "annotators",
    "groups",
    "length_bias",
    "adversarial",
]
PER_ID = ["flip", "confused", "asymmetric"]
OF_CHOICES = ["none", "flip", "confused"]

kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 2**63)
positive = st.floats(1e-9, 0.35)
rates = positive | st.just(0.0)


def config(kind: str, **changes: object) -> dict:
    """What a run would hand to the class: the group where it belongs, interpolations resolved."""
    run = OmegaConf.create({"noise": OmegaConf.load(CONF / f"{kind}.yaml")})
    run.noise.update(changes)
    return OmegaConf.to_container(run, resolve=True)["noise"]


def noise(kind: str, **changes: object) -> Noise:
    arguments = config(kind, **changes)
    return get_class(arguments.pop("_target_"))(**arguments)


def recorded(n: int = 400, seed: int = 0) -> Recorded:
    """Pairs of every sort: ties, contradicted labels, equal lengths, annotators and groups of unequal size."""
    draw = np.random.default_rng(seed)
    return Recorded(
        ids=np.array([f"pair-{seed}-{i}" for i in range(n)]),
        label=draw.integers(0, 2, n),
        length=np.stack([draw.integers(1, 30, n), draw.integers(1, 30, n)], axis=1),
        margin=np.round(draw.normal(0.5, 1.0, n), 1),
        annotator=draw.integers(0, 5, n) * draw.integers(0, 6, n),
        group=np.array(["en", "de", "fr"])[draw.choice(3, n, p=[0.6, 0.3, 0.1])],
    )


def pick(pairs: Recorded, rows: np.ndarray) -> Recorded:
    return Recorded(**{name: values[rows] for name, values in vars(pairs).items()})


def reaches(kind: str, rate: float, pairs: Recorded) -> bool:
    """Ties are a coin toss at every temperature: below half of their share there is no rate but 0."""
    return kind != "temperature" or rate == 0 or rate >= np.mean(pairs.margin == 0) / 2


def test_the_hash_never_changes():
    ids = np.array(["a", "b", "é"])
    assert uniform(ids, 0).tolist() == [0.46712176394522886, 0.6412640200013325, 0.47261270591589855]


def test_uniform_is_uniform_and_purposes_and_seeds_are_independent():
    ids = np.array([f"{i}" for i in range(20_000)])
    draws = np.stack([uniform(ids, 0), uniform(ids, 1), uniform(ids, 0, "annotator")])
    counts = np.stack([np.histogram(row, bins=20, range=(0, 1))[0] for row in draws])
    assert (((counts - 1000) ** 2 / 1000).sum(axis=1) < 60).all()
    assert np.abs(np.corrcoef(draws) - np.eye(3)).max() < 0.04


@given(kind=kinds, data=seeds, seed=seeds, low=rates, high=rates)
@settings(max_examples=300, deadline=None)
def test_what_is_flipped_at_a_rate_is_flipped_at_every_larger_one(kind, data, seed, low, high):
    pairs, (low, high) = recorded(seed=data), sorted((low, high))
    if reaches(kind, low, pairs) and reaches(kind, high, pairs):
        few, many = (noise(kind, rate=rate).flips(pairs, seed) for rate in (low, high))
        assert not (few & ~many).any()


@given(kind=kinds, rate=positive, step=st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_nesting_survives_rates_that_differ_in_the_last_bits(kind, rate, step):
    pairs, more = recorded(), rate
    for _ in range(step):
        more = np.nextafter(more, 1)
    if reaches(kind, rate, pairs) and reaches(kind, more, pairs):
        few, many = (noise(kind, rate=value).flips(pairs, 0) for value in (rate, float(more)))
        assert not (few & ~many).any()


@given(kind=kinds, seed=seeds, order=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_the_rows_moves_no_flip(kind, seed, order):
    pairs, made = recorded(), noise(kind)
    rows = np.array(order.sample(range(400), 400))
    assert (made.flips(pick(pairs, rows), seed) == made.flips(pairs, seed)[rows]).all()


@pytest.mark.parametrize("kind", PER_ID)
@given(seed=seeds, rows=st.lists(st.integers(0, 399), min_size=1, unique=True).map(np.array))
@settings(max_examples=40, deadline=None)
def test_other_rows_move_no_flip(kind, seed, rows):
    pairs, made = recorded(), noise(kind)
    assert (made.flips(pick(pairs, rows), seed) == made.flips(pairs, seed)[rows]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [0.1, 0.2, 0.4])
def test_the_share_of_flips_is_the_rate_within_binomial_error(kind, rate):
    pairs = recorded(20_000)
    flipped = noise(kind, rate=rate).flips(pairs, seed=0)
    assert flipped.dtype == bool and flipped.shape == (20_000,)
    assert abs(flipped.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / 20_000)


@pytest.mark.parametrize("kind", ["none", *KINDS])
def test_rate_zero_flips_nothing(kind):
    assert not noise(kind, rate=0).flips(recorded(), seed=0).any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_changes_the_flips_and_the_same_seed_does_not(kind):
    pairs = recorded()
    first, again, other = (noise(kind).flips(pairs, seed) for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize("kind", KINDS)
def test_belief_moves_no_flip(kind):
    pairs = recorded()
    wrong = noise(kind, assumed=0.45)
    assert wrong.assumed == 0.45 and noise(kind, rate=0.3).assumed == 0.3
    assert (wrong.flips(pairs, 0) == noise(kind).flips(pairs, 0)).all()


def test_asymmetric_flips_second_winners_by_the_ratio():
    pairs = recorded(40_000)
    flipped = noise("asymmetric", rate=0.3, ratio=0.5).flips(pairs, seed=0)
    assert flipped[pairs.label == 0].mean() == pytest.approx(0.4, abs=0.02)
    assert flipped[pairs.label == 1].mean() == pytest.approx(0.2, abs=0.02)


def test_temperature_flips_as_bradley_terry_says():
    pairs = replace(recorded(60_000), margin=np.tile([-1.0, 3.0], 30_000))
    flipped = noise("temperature", rate=0.25).flips(pairs, seed=0)
    close, wide = (np.mean(flipped[np.abs(pairs.margin) == size]) for size in (1, 3))
    assert np.log(wide / (1 - wide)) == pytest.approx(3 * np.log(close / (1 - close)), rel=0.05)


def test_margin_flips_close_pairs_more_and_none_more_than_a_coin():
    pairs = recorded(40_000)
    flipped = noise("margin", rate=0.3).flips(pairs, seed=0)
    closest, widest = (rows(np.abs(pairs.margin), q) for rows, q in ((np.less, 0.2), (np.greater, 2)))
    assert 0.45 < flipped[closest].mean() < 0.52 and flipped[widest].mean() < 0.12


@pytest.mark.parametrize(("kind", "column"), [("annotators", "annotator"), ("groups", "group")])
def test_every_member_has_a_rate_of_their_own_that_another_seed_redraws(kind, column):
    pairs = replace(recorded(40_000), **{column: np.array(["ann", "bob", "cy", "di"])[np.arange(40_000) % 4]})
    by_member = np.stack([noise(kind).flips(pairs, seed).reshape(-1, 4).mean(axis=0) for seed in range(8)])
    assert by_member.max() < 0.52
    assert (np.ptp(by_member, axis=1) > 0.05).all() and (np.ptp(by_member, axis=0) > 0.05).all()


def four_annotators(n=40_000):
    return replace(recorded(n), annotator=np.array(["dot", "ann", "cy", "bob"])[np.arange(n) % 4])


def test_annotators_with_rates_err_as_often_as_these_say_in_the_order_of_their_names():
    pairs, rates = four_annotators(), {"ann": 0.05, "bob": 0.15, "cy": 0.3, "dot": 0.4}
    flipped = noise("annotators", rate=0.225, rates=list(rates.values())).flips(pairs, seed=0)
    for name, rate in rates.items():
        assert flipped[pairs.annotator == name].mean() == pytest.approx(
            rate, abs=4 * np.sqrt(rate * (1 - rate) / 10_000)
        )
    fewer = noise("annotators", rate=0.1, rates=list(rates.values())).flips(pairs, seed=0)
    assert not (fewer & ~flipped).any() and fewer.mean() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("rates", [[0.1, 0.7], [-0.1, 0.2], [float("nan"), 0.1]])
def test_what_no_annotator_can_have_for_a_rate_is_named(rates):
    with pytest.raises(PrefoptError, match=r"noise.rates=.* are not all in \[0, 0.5\]"):
        noise("annotators", rates=rates)


def test_as_many_rates_as_annotators_are_needed():
    with pytest.raises(
        PrefoptError, match=r"noise.rates has 3 rates, and the training pairs have 4 annotators"
    ) as caught:
        noise("annotators", rates=[0.1, 0.2, 0.3]).flips(four_annotators(8), seed=0)
    assert "ann, bob, cy, dot" in caught.value.mend


def test_length_bias_flips_only_pairs_whose_winner_is_shorter():
    pairs = recorded()
    winner = np.take_along_axis(pairs.length, pairs.label[:, None], axis=1)[:, 0]
    flipped = noise("length_bias").flips(pairs, seed=0)
    assert flipped.any() and (2 * winner < pairs.length.sum(axis=1))[flipped].all()


def test_adversarial_flips_exactly_the_widest_margins():
    pairs = recorded()
    flipped = noise("adversarial", rate=0.1).flips(pairs, seed=0)
    assert flipped.sum() == 40 and pairs.margin[flipped].min() >= pairs.margin[~flipped].max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan"), "high", None])
def test_what_is_no_rate_is_named(kind, rate):
    with pytest.raises(PrefoptError) as caught:
        noise(kind, rate=rate, assumed=0.2)
    assert caught.value.what.startswith(f"noise.rate={rate!r} is not a number in [0, ")
    assert f"noise={kind}" in caught.value.what and "noise.rate=0.2" in caught.value.mend


@pytest.mark.parametrize("kind", ["temperature", "margin", "annotators", "groups"])
def test_kinds_that_are_at_worst_a_coin_toss_stay_below_a_half(kind):
    with pytest.raises(PrefoptError, match=rf"noise.rate=0.5 .* \[0, 0.5\), as noise={kind}(?s:.*)noise=flip"):
        noise(kind, rate=0.5)


@pytest.mark.parametrize("assumed", [-0.1, float("nan"), float("inf"), "high", None])
def test_what_no_method_can_believe_is_named(assumed):
    with pytest.raises(PrefoptError, match=r"noise.assumed=.* is not a number >= 0\n  mend: leave noise.assumed out"):
        noise("flip", assumed=assumed)


def test_none_with_a_rate_says_which_noise_to_choose():
    with pytest.raises(PrefoptError, match=r"noise.rate=0.2 asks noise=none(?s:.*)mend: noise=flip noise.rate=0.2"):
        noise("none", rate=0.2)


@pytest.mark.parametrize("ratio", [-1, float("inf"), "half"])
def test_what_is_no_ratio_is_named(ratio):
    with pytest.raises(PrefoptError, match=r"noise.ratio=.* is not a number >= 0\n  mend: noise.ratio=0.5"):
        noise("asymmetric", ratio=ratio)


def test_a_rate_out_of_reach_names_the_nearest_one():
    with pytest.raises(PrefoptError, match=r"noise.rate=0.8 is out of reach of noise=asymmetric.* at most 0.75 "):
        noise("asymmetric", rate=0.8)
    shorter = replace(
        recorded(10), label=np.zeros(10, int), length=np.array([[1, 2]] * 3 + [[2, 1]] * 4 + [[1, 1]] * 3)
    )
    assert noise("length_bias", rate=0.3).flips(shorter, 0).sum() == 3
    with pytest.raises(PrefoptError, match=r"noise.rate=0.31 (?s:.*)mend: choose a noise.rate of at most 0.3, or"):
        noise("length_bias", rate=0.31).flips(shorter, 0)
    ties = replace(recorded(10), margin=np.array([0.0] * 4 + [1.0] * 6))
    with pytest.raises(PrefoptError, match=r"noise.rate=0.1 (?s:.*)mend: choose a noise.rate of at least 0.2, or"):
        noise("temperature", rate=0.1).flips(ties, 0)


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        ("temperature", "margin"),
        ("margin", "margin"),
        ("adversarial", "margin"),
        ("annotators", "annotator"),
        ("groups", "group"),
    ],
)
def test_a_missing_column_is_named_with_the_kinds_that_work_without(kind, column):
    without = replace(recorded(), **{column: None})
    with pytest.raises(PrefoptError) as caught:
        noise(kind).flips(without, seed=0)
    assert f"noise={kind} needs the column {column}" in caught.value.what
    assert "noise=flip, asymmetric or length_bias" in caught.value.mend


@pytest.mark.parametrize("kind", ["flip", "asymmetric", "length_bias"])
def test_the_kinds_that_work_on_every_dataset_do(kind):
    assert noise(kind).flips(replace(recorded(), margin=None, annotator=None, group=None), seed=0).any()


def test_margin_noise_on_nothing_but_ties_is_symmetric():
    ties = replace(recorded(1000), margin=np.zeros(1000))
    assert (noise("margin").flips(ties, seed=0) == noise("flip").flips(ties, seed=0)).all()


@pytest.mark.parametrize("kind", KINDS[:-2])
def test_a_pair_alone_flips_with_the_rate(kind):
    made, pair = noise(kind), recorded(1)
    alone = [replace(pair, ids=np.array([f"{i}"]), margin=np.ones(1)) for i in range(500)]
    expected = 0.2 if kind != "asymmetric" else 0.2 * (4 - 2 * pair.label[0]) / 3
    assert np.mean([made.flips(one, seed=0) for one in alone]) == pytest.approx(expected, abs=0.08)


def choices(n: int = 20_000, responses: int = 5) -> Recorded:
    return replace(recorded(n), label=np.arange(n) % responses, length=np.ones((n, responses), dtype=int))


@pytest.mark.parametrize("kind", KINDS)
def test_a_turned_label_of_a_pair_is_the_other_one(kind):
    pairs = recorded()
    turned = noise(kind).labels(pairs, 0) != pairs.label
    assert (turned == noise(kind).flips(pairs, 0)).all()
    assert set(noise(kind).labels(pairs, 0)) == {0, 1}


def test_a_flipped_choice_becomes_any_of_the_others_all_alike():
    """As redrawing it from all of K with probability nu does at the rate nu (K - 1) / K."""
    before = choices()
    after = noise("flip", rate=0.6 * 4 / 5).labels(before, 0)
    table = np.zeros((5, 5))
    np.add.at(table, (before.label, after), 1 / 4000)
    assert np.abs(table - (0.4 * np.eye(5) + 0.6 / 5)).max() < 4 * np.sqrt(0.25 / 4000)
    assert (noise("flip", rate=0.3).labels(before, 0) != before.label).mean() == pytest.approx(0.3, abs=0.015)


def test_a_confused_choice_becomes_its_neighbour():
    before = choices()
    after = noise("confused", rate=0.3).labels(before, 0)
    moved = after != before.label
    assert moved.mean() == pytest.approx(0.3, abs=0.015)
    assert (after[moved] == (before.label[moved] + 1) % 5).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_turns_preferences_between_two_alone_refuses_choices_among_more(kind):
    if kind not in OF_CHOICES:
        with pytest.raises(PrefoptError, match=rf"noise={kind} .* choices among 5"):
            noise(kind).labels(choices(50), 0)


def test_every_kind_has_a_file_that_binds_to_its_class():
    assert {path.stem for path in CONF.glob("*.yaml")} == {"none", *KINDS}
    for path in CONF.glob("*.yaml"):
        arguments = config(path.stem)
        made = get_class(arguments.pop("_target_"))
        inspect.signature(made).bind(**arguments)
        assert set(arguments) == set(inspect.signature(made).parameters)
        assert made(**arguments).kind == path.stem
        assert arguments["rate"] == arguments["assumed"] == (0 if path.stem == "none" else 0.2)
        assert path.read_text().startswith("# ")


def test_the_margin_of_a_choice_is_its_gap_to_the_best_other():
    three = Table(
        kind=Choices,
        ids=np.array(["a"]),
        prompt=Ragged.of([[1]]),
        response=Ragged.of([[1], [2, 2], [3]]),
        columns={"label": np.array([2])},
    )
    read = Recorded.from_table(three, np.array([2]), np.array([[0.5, 2.0, 1.0]]))
    assert read.margin.tolist() == [-1.0] and read.length.tolist() == [[1, 2, 1]]


def test_the_margin_is_the_first_gap_that_is_known_for_every_pair():
    label = np.array([0, 1])
    pairs = Table(
        kind=Pairs,
        ids=np.array(["a", "b"]),
        prompt=Ragged.of([[1], [1]]),
        response=Ragged.of([[1, 2], [1], [1], [1, 2, 3]]),
        columns={"label": label},
        known={
            "scores": np.array([[5.0, 3.0], [4.0, 4.5]]),
            "margin": np.array([1.0, 2.0]),
            "annotator": np.array(["ann", "bob"]),
        },
    )
    gold, partly = np.array([[0.5, 0.0], [0.25, 0.0]]), np.array([[0.5, 0.0], [np.nan, 0.0]])
    assert Recorded.from_table(pairs, label, gold).margin.tolist() == [0.5, -0.25]
    read = Recorded.from_table(pairs, label, partly)
    assert read.margin.tolist() == [2.0, 0.5]
    assert read.length.tolist() == [[2, 1], [1, 3]] and read.annotator.tolist() == ["ann", "bob"] and read.group is None
    only_margin = replace(pairs, known={"margin": pairs.known["margin"]})
    assert Recorded.from_table(only_margin, label, partly).margin.tolist() == [1.0, 2.0]
    assert Recorded.from_table(replace(pairs, known={}), label, partly).margin is None
