"""The embedded default: its gold reward by hand, its labels by Bradley-Terry, its split by openings."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from prefopt.datasets import grammar
from prefopt.datasets.reviews import ANNOTATORS, LEXICON, MIXTURE, Reviews, gold
from prefopt.errors import PrefoptError
from prefopt.models.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
VOCABULARIES = (grammar.WORDS, *grammar.SUBJECTS.values())
SAYABLE = sorted({text for rules in VOCABULARIES for texts in rules.values() for text in texts})


@pytest.fixture(scope="module")
def corpus():
    return Reviews().corpus()


def small(**changes) -> Reviews:
    return Reviews(**{"pairs": 60, "test_pairs": 20, "demonstrations": 40, **changes})


def squashed(sentiment: float) -> float:
    return 4 * math.tanh(sentiment / 4)


@pytest.mark.parametrize(
    ("response", "sentiment"),
    [
        ("", 0),
        ("We came at seven.", 0),
        ("The room was good.", 1),
        ("THE ROOM WAS GOOD", 1),
        ("The room was great.", 2),
        ("The room was bad.", -1),
        ("The room was terrible.", -2),
        ("I disliked the bed.", -1),
        ("I truly loved the bed.", 3),
        ("The room was really great.", 3),
        ("The room was fairly bad.", -0.5),
        ("The room was not good.", -0.5),
        ("The room was never terrible.", 1),
        ("The room was hardly good.", -0.5),
        ("The room was not very good.", -0.75),
        ("It was not a good stay.", -0.5),
        ("It was not a very good stay.", -0.75),
        ("It was not a stay of good food.", 1),
        ("It was very much good.", 1),
        ("It was not. Good.", 1),
        ("It was not! Good", 1),
        ("It was really\ngood", 1),
        ("The room was good. The bed was bad.", 0),
        ("The room was good. The bed was great. I liked the lobby.", 4),
        ("Good, good, good.", 1),
        ("The room was good. The bed was very good.", 1.25),
        ("The room was good. The bed was not good.", 0.25),
        ("Goodness, a badge.", 0),
    ],
)
def test_gold_is_what_the_docstring_says(response: str, sentiment: float) -> None:
    assert gold("The hotel was booked.", response) == pytest.approx(squashed(sentiment), abs=1e-12)


def test_the_prompt_earns_nothing() -> None:
    assert gold("An excellent, superb hotel.", "It was good.") == gold("", "It was good.")


def test_every_word_of_the_response_earns_the_length_weight() -> None:
    assert gold("Ten words.", "The room, it was good.", 0.1) == pytest.approx(squashed(1) + 0.5)
    assert gold("Ten words.", " . ! ", 0.1) == 0


@given(st.text())
def test_any_text_has_a_finite_and_bounded_gold(text: str) -> None:
    assert -4 <= gold(text, text) <= 4


@given(st.lists(st.sampled_from([*SAYABLE, ".", ",", "\n"]), max_size=60))
def test_saying_it_all_again_earns_nothing(words: list[str]) -> None:
    text = " ".join(words)
    assert abs(gold("", text)) <= 4
    assert gold("", f"{text}. {text}") == pytest.approx(gold("", text), abs=1e-12)


def test_each_sentiment_word_has_one_polarity_and_other_words_none() -> None:
    said = {
        sign: {word for rules in VOCABULARIES for kind, words in rules.items() if kind[-1] == sign for word in words}
        for sign in "+-"
    }
    assert said["+"].isdisjoint(said["-"])
    assert {word for word in LEXICON if LEXICON[word] > 0} == said["+"]
    assert {word for word in LEXICON if LEXICON[word] < 0} == said["-"]
    assert all(gold("", prompt) == 0 for _, prompt in grammar.openings())
    assert all(gold("", text) == 0 for rules in grammar.SUBJECTS.values() for text in rules["plain"])


def test_the_same_config_gives_the_same_corpus_and_another_seed_another() -> None:
    first, again, other = small().corpus(), small().corpus(), small(seed=1).corpus()
    assert (first.train, first.test, first.demonstrations) == (again.train, again.test, again.demonstrations)
    assert small().checksum() == small().checksum() != small(seed=1).checksum()
    assert all(a.responses != b.responses for a, b in zip(first.train, other.train, strict=True))
    assert {row.prompt for row in first.test} != {row.prompt for row in other.test}


def test_more_pairs_leave_the_first_ones_as_they_are() -> None:
    assert small(pairs=90).corpus().train[:60] == small().corpus().train


@pytest.mark.parametrize("change", [{"temperature": 5.0}, {"length_weight": -1.0}])
def test_what_changes_labels_changes_no_text(change: dict[str, float]) -> None:
    before, after = small().corpus(), small(**change).corpus()
    assert [set(row.responses) for row in before.train] == [set(row.responses) for row in after.train]
    assert [row.responses for row in before.train] != [row.responses for row in after.train]
    assert before.demonstrations == after.demonstrations


def test_test_prompts_occur_nowhere_in_training(corpus) -> None:
    trained_on = {row.prompt for row in corpus.train} | {prompt for prompt, _ in corpus.demonstrations}
    tested_on = {row.prompt for row in corpus.test}
    assert trained_on.isdisjoint(tested_on)
    assert len(trained_on) > 600
    assert len(tested_on) > 100


def test_the_sizes_are_as_asked(corpus) -> None:
    assert [len(corpus.train), len(corpus.test), len(corpus.demonstrations)] == [4000, 500, 4000]
    ids = [row.id for row in (*corpus.train, *corpus.test)]
    assert len(set(ids)) == 4500
    assert ids[17] == "reviews-train-000017"


def test_the_responses_of_a_pair_differ_and_stand_in_either_order(corpus) -> None:
    assert all(row.responses[0] != row.responses[1] for row in corpus.train)
    assert np.mean([row.label for row in corpus.train]) == pytest.approx(0.5, abs=4 * 0.5 / 4000**0.5)


def test_every_row_carries_its_gold_subject_and_annotator(corpus) -> None:
    for row in corpus.train:
        assert row.gold == tuple(corpus.gold(row.prompt, response) for response in row.responses)
        assert row.prompt.startswith(f"The {row.group} was ")
    assert {row.annotator for row in corpus.train} == set(ANNOTATORS)
    assert {row.group for row in corpus.train} == set(grammar.SUBJECTS)


def deviations(dataset: Reviews, temperature: float) -> list[float]:
    """z of how often the better response wins, against Bradley-Terry at `temperature`, over four ranges of the gap."""
    rows = dataset.corpus().train
    golds, labels = np.array([row.gold for row in rows]), np.array([row.label for row in rows])
    gap, better = np.abs(golds[:, 0] - golds[:, 1]), golds.argmax(1)
    p = 1 / (1 + np.exp(-gap / temperature))
    ranges = [(gap > low) & (gap <= high) for low, high in ((0, 1), (1, 2), (2, 3.5), (3.5, np.inf))]
    return [((labels == better) - p)[r].sum() / np.sqrt((p * (1 - p))[r].sum()) for r in ranges]


@pytest.mark.parametrize(("temperature", "length_weight"), [(1.0, 0.0), (0.5, 0.0), (1.0, 0.2)])
def test_labels_are_bradley_terry_on_gold_at_the_stated_temperature(temperature: float, length_weight: float) -> None:
    dataset = Reviews(pairs=6000, test_pairs=1, demonstrations=1, temperature=temperature, length_weight=length_weight)
    assert np.abs(deviations(dataset, temperature)).max() < 4
    assert np.abs(deviations(dataset, 1.5 * temperature)).max() > 4


def test_a_tiny_temperature_lets_the_better_response_always_win() -> None:
    for row in small(temperature=1e-300).corpus().train:
        assert row.gold[row.label] >= row.gold[1 - row.label]


def test_the_mixture_is_who_writes() -> None:
    mean = {
        name: np.mean(
            [gold(*row) for row in Reviews(pairs=1, demonstrations=1500, mixture=mixture).corpus().demonstrations]
        )
        for name, mixture in [("all", MIXTURE), *((policy, {policy: 2.0}) for policy in MIXTURE)]
    }
    assert mean["positive"] > 1
    assert mean["negative"] < -1
    assert abs(mean["neutral"]) < 0.2
    assert abs(mean["all"]) < 0.2


def test_the_language_is_small_and_responses_are_short(corpus) -> None:
    texts = [text for row in (*corpus.train, *corpus.test) for text in (row.prompt, *row.responses)]
    assert 150 <= len({word for text in texts for word in re.findall(r"\w+", text.lower())}) <= 250
    assert all(2 <= len(response.split()) <= 24 for row in corpus.train for response in row.responses)


def test_all_responses_are_sentences(corpus) -> None:
    sentence = r" (The|It|I|We|There|Overall)( [A-Za-z]+)+\."
    assert all(re.fullmatch(f"({sentence}){{1,3}}", response) for row in corpus.train for response in row.responses)
    assert not any(re.search(r"\ba [aeiou]|\ban [^aeiou]|[{}+]", r) for row in corpus.train for r in row.responses)


def test_as_tokens_nothing_is_cut_and_the_world_pays_what_the_text_earns() -> None:
    dataset = small(length_weight=0.05)
    data = dataset.load(train_tokenizer(dataset.texts(), 2048))
    assert not any(count for name, count in data.counts.items() if "cut" in name or "dropped" in name)
    rewards = data.world.reward(data.test.pairs.batch(np.arange(len(data.test.pairs))))
    np.testing.assert_allclose(rewards.numpy(), data.test.truth.gold, atol=1e-6)


def test_the_yaml_says_what_the_signature_says() -> None:
    shown = yaml.safe_load((ROOT / "conf/dataset/reviews.yaml").read_text())
    assert shown.pop("_target_") == "prefopt.datasets.reviews.Reviews"
    assert shown.pop("seed") == "${seed}"
    assert Reviews(**shown).checksum() == Reviews().checksum()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"pairs": 0}, "dataset.pairs=0"),
        ({"test_pairs": -1}, "dataset.test_pairs=-1"),
        ({"demonstrations": 0}, "dataset.demonstrations=0"),
        ({"temperature": 0.0}, "dataset.temperature=0.0"),
        ({"temperature": math.nan}, "dataset.temperature=nan"),
        ({"temperature": math.inf}, "dataset.temperature=inf"),
        ({"length_weight": math.nan}, "dataset.length_weight=nan"),
        ({"mixture": {"ironic": 1.0}}, "dataset.mixture.ironic.*positive, neutral, negative"),
        ({"mixture": {"positive": -1.0}}, "dataset.mixture.positive=-1.0"),
        ({"mixture": {"positive": 0.0}}, "dataset.mixture"),
        ({"mixture": {}}, "dataset.mixture"),
    ],
)
def test_an_impossible_value_is_named_with_its_key(change: dict, key: str) -> None:
    with pytest.raises(PrefoptError, match=f"(?s){key}"):
        small(**change)
