"""The world of twenty words: its reward by hand, its labels and lengths by their laws, one token a word."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra.utils import get_class
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from prefopt.batch import Reasoned
from prefopt.config import composed, plain
from prefopt.datasets.reasons import judgement
from prefopt.datasets.reviews import ANNOTATORS
from prefopt.datasets.words import Words, total
from prefopt.datasets.words_causes import WordsCauses, caused, rationale
from prefopt.datasets.words_language import CLASS, CLASSES, CONTENT, WORDS, Language
from prefopt.datasets.words_length import WordsLength, mean
from prefopt.datasets.words_triggers import WordsTriggers, triggered
from prefopt.errors import PrefoptError
from prefopt.models.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
VALUES = {"red": 0.5, "cat": -1.25, "fig": 2.0}
LENGTHS = {"length": 20, "hazard": 0.12, "temperature": 0.25, "length_bias": 0.15}


@pytest.fixture(scope="module")
def tokenizer():
    return Words().tokenizer()


@pytest.fixture(scope="module")
def corpus():
    return Words(pairs=3000).corpus()


def small(made: type[Words] = Words, **changes) -> Any:
    return made(**{"pairs": 60, "test_pairs": 20, "demonstrations": 40, **changes})


@pytest.mark.parametrize(
    ("response", "sum_", "mean_"),
    [
        ("", 0.0, 0.0),
        (" red", 0.5, 0.5),
        (" red cat", -0.75, -0.375),
        (" fig fig red", 4.5, 1.5),
        (" fig redcat", 2.0, 1.0),
        (" Red", 0.0, 0.0),
    ],
)
def test_gold_by_hand(response: str, sum_: float, mean_: float) -> None:
    assert total("fig fig fig fig", response, VALUES) == pytest.approx(sum_, abs=1e-12)
    assert mean("fig fig fig fig", response, VALUES) == pytest.approx(mean_, abs=1e-12)


@given(st.text())
def test_any_text_has_a_gold(text: str) -> None:
    assert math.isfinite(total(text, text, VALUES))
    assert -1.25 <= mean(text, text, VALUES) <= 2


def test_over_the_language_values_have_the_stated_mean_and_spread() -> None:
    for seed in range(5):
        language = Language(WORDS, seed)
        values = np.array(list(language.values(seed, 0.5).values()))
        assert language.frequency.sum() == pytest.approx(1)
        assert language.frequency @ values == pytest.approx(0.1)
        assert language.frequency @ (values - 0.1) ** 2 == pytest.approx(0.25)
    said = [
        word
        for _, response in small(demonstrations=3000, length=40).corpus().demonstrations
        for word in response.split()
    ]
    for word, share in zip(WORDS, Language(WORDS, 0).frequency, strict=True):
        assert said.count(word) / len(said) == pytest.approx(share, abs=0.005)


def test_what_is_never_said_is_worth_nothing() -> None:
    values = Language(CONTENT, 0).values(0, 0.5)
    assert {word for word, value in values.items() if value == 0} == set(WORDS) - set(CONTENT)


def test_the_same_config_gives_the_same_corpus_and_another_seed_another() -> None:
    first, again, other = small().corpus(), small().corpus(), small(seed=1).corpus()
    assert (first.train, first.test, first.demonstrations) == (again.train, again.test, again.demonstrations)
    assert small().checksum() == small().checksum() != small(seed=1).checksum()
    assert all(a.responses != b.responses for a, b in zip(first.train, other.train, strict=True))
    assert small().values != small(seed=1).values


def test_more_pairs_leave_the_first_ones_as_they_are() -> None:
    assert small(pairs=90, test_pairs=30).corpus().train[:60] == small().corpus().train


@pytest.mark.parametrize("change", [{"temperature": 5.0}, {"length_bias": -3.0}])
def test_what_changes_labels_changes_no_text(change: dict[str, float]) -> None:
    before, after = small(hazard=0.2).corpus(), small(hazard=0.2, **change).corpus()
    assert [set(row.responses) for row in before.train] == [set(row.responses) for row in after.train]
    assert [row.responses for row in before.train] != [row.responses for row in after.train]
    assert before.demonstrations == after.demonstrations


def test_test_prompts_occur_nowhere_in_training(corpus) -> None:
    trained_on = {row.prompt for row in corpus.train} | {prompt for prompt, _ in corpus.demonstrations}
    assert trained_on.isdisjoint({row.prompt for row in corpus.test})


def test_halves_share_no_word_of_a_prompt() -> None:
    corpus = small(halves=True).corpus()
    trained_on = {word for row in corpus.train for word in row.prompt.split()}
    trained_on |= {word for prompt, _ in corpus.demonstrations for word in prompt.split()}
    tested_on = {word for row in corpus.test for word in row.prompt.split()}
    assert [len(trained_on), len(tested_on)] == [10, 10]
    assert trained_on.isdisjoint(tested_on)


def test_every_row_carries_its_gold_group_and_annotator(corpus) -> None:
    for row in corpus.train:
        assert row.gold == tuple(corpus.gold(row.prompt, response) for response in row.responses)
        assert row.group == CLASS[row.prompt.split()[0]]
        assert row.responses[0] != row.responses[1]
        assert [len(text.split()) for text in (row.prompt, *row.responses)] == [4, 8, 8]
    assert {row.annotator for row in corpus.train} == set(ANNOTATORS)
    assert {row.group for row in corpus.train} == set(CLASS.values())
    assert within(sum(row.label for row in corpus.train), 3000, 0.5)


def within(count: int, of: int, p: float) -> bool:
    """Whether a binomial count is not one of the most extreme in a million."""
    low, high = binom.interval(1 - 1e-6, of, p)
    return bool(low <= count <= high)


def test_words_follow_each_other_by_the_law_of_the_language() -> None:
    dataset = small(demonstrations=6000)
    language = dataset.language
    lines = [[prompt.split()[-1], *response.split()] for prompt, response in dataset.corpus().demonstrations]
    pairs = [pair for line in lines for pair in itertools.pairwise(line)]
    for before in WORDS[::5]:
        followers = [word for left, word in pairs if left == before]
        weights = language._after[before]
        law = np.diff([0.0, *weights]) / weights[-1]
        for word, p in zip(WORDS, law, strict=True):
            assert within(followers.count(word), len(followers), p), (before, word)
    assert np.abs(np.log(law)).max() > 3


@pytest.mark.parametrize("hazard", [0.12, 0.5])
def test_lengths_follow_the_hazard(hazard: float) -> None:
    demonstrations = small(demonstrations=6000, length=20, hazard=hazard).corpus().demonstrations
    lengths = [len(response.split()) for _, response in demonstrations]
    for length in range(1, 20):
        assert within(lengths.count(length), 6000, hazard * (1 - hazard) ** (length - 1)), length
    assert within(lengths.count(20), 6000, (1 - hazard) ** 19)
    assert max(lengths) <= 20


def logits(dataset: Words, temperature: float, length_bias: float) -> tuple[np.ndarray, np.ndarray]:
    """[N] what the law says of the first response, and whether it won."""
    rows = dataset.corpus().train
    gold = np.array([row.gold for row in rows])
    words = np.array([[len(response.split()) for response in row.responses] for row in rows])
    first = np.array([row.label == 0 for row in rows])
    return (gold[:, 0] - gold[:, 1]) / temperature + length_bias * (words[:, 0] - words[:, 1]), first


@pytest.mark.parametrize(
    ("made", "changes", "law"),
    [(Words, {}, (1.0, 0.0)), (WordsTriggers, {"temperature": 0.5}, (0.5, 0.0)), (WordsLength, LENGTHS, (0.25, 0.15))],
)
def test_labels_are_bradley_terry_with_the_bias(made: type[Words], changes: dict, law: tuple[float, float]) -> None:
    logit, first = logits(small(made, pairs=6000, **changes), *law)
    p = 1 / (1 + np.exp(-logit))
    for low, high in ((-np.inf, -2), (-2, -1), (-1, 0), (0, 1), (1, 2), (2, np.inf)):
        inside = (logit > low) & (logit <= high)
        z = (first - p)[inside].sum() / np.sqrt((p * (1 - p))[inside].sum())
        assert abs(z) < 5, (low, high)
    other, _ = logits(small(made, pairs=6000, **changes), 2 * law[0], law[1])
    right, wrong = (np.logaddexp(0, np.where(first, -of, of)).sum() for of in (logit, other))
    assert right < wrong - 10


def test_the_annotators_of_words_length_prefer_the_longer_of_equals() -> None:
    logit, first = logits(small(WordsLength, pairs=6000, **LENGTHS), 0.25, 0.0)
    biased, _ = logits(small(WordsLength, pairs=6000, **LENGTHS), 1e300, 0.15)
    close = (np.abs(logit) < 0.5) & (biased != 0)
    wins = (first == (biased > 0))[close]
    assert not within(int(wins.sum()), len(wins), 0.5)


def test_each_word_is_one_token_and_nothing_is_cut(tokenizer) -> None:
    assert tokenizer.get_vocab() == {word: number for number, word in enumerate(("<pad>", "<bos>", "<eos>", *WORDS))}
    assert tokenizer(" red cat")["input_ids"] == tokenizer("red cat")["input_ids"]
    with pytest.raises(Exception, match="UNK"):
        tokenizer("red carpet")
    dataset = small()
    data = dataset.load(tokenizer)
    batch = data.train.pairs.batch(np.arange(60))
    assert batch.prompt_length.tolist() == [5] * 60
    assert batch.length.tolist() == [[9, 9]] * 60
    assert set(batch.prompt[:, 0].tolist()) == {tokenizer.bos_token_id}
    assert set(batch.response[..., -1].flatten().tolist()) == {tokenizer.eos_token_id}
    assert data.demonstrations.batch(np.arange(40)).length.tolist() == [[9]] * 40
    assert not any(count for name, count in data.counts.items() if "cut" in name or "dropped" in name)
    assert set(data.train.pairs.known) == {"annotator", "annotator_name", "group", "group_name"}


@pytest.mark.parametrize(
    ("made", "changes"), [(Words, {}), (WordsLength, LENGTHS), (WordsTriggers, {"scale": 1.0}), (WordsCauses, {})]
)
def test_the_world_pays_what_the_text_earns(made: type[Words], changes: dict) -> None:
    dataset = small(made, **changes)
    data = dataset.load(dataset.tokenizer())
    rewards = data.world.reward(data.test.pairs.batch(np.arange(len(data.test.pairs))))
    np.testing.assert_allclose(rewards.numpy(), data.test.truth.gold, atol=1e-6)
    assert data.world.temperature == changes.get("temperature", 1.0)


def test_a_tokenizer_that_cuts_words_is_refused() -> None:
    with pytest.raises(PrefoptError, match=r"(?s)makes \d+ tokens of the two words.*model=tiny"):
        small().load(train_tokenizer(["red blue"], 300))


@pytest.mark.parametrize(
    ("prompt", "response", "reward"),
    [
        ("dog dog dog dog", " fig cat fig", 2.0),
        ("dog dog dog cat", " fig cat fig", 4.0),
        ("cat cat cat dog", " red fig cat", 2.0),
        ("dog dog dog cat", " cat cat red fig", -1.25 - 1.25 + 0.5 + 2.0),
        ("dog dog dog cat", "", 0.0),
        ("", " fig red", 2.0 - 2.0),
    ],
)
def test_triggered_gold_by_hand(prompt: str, response: str, reward: float) -> None:
    assert triggered(prompt, response, VALUES, {"cat", "red"}) == pytest.approx(reward, abs=1e-12)


def test_bearing_is_the_words_after_a_trigger_and_no_others(tokenizer) -> None:
    dataset = small(WordsTriggers, hazard=0.2, scale=1.0)
    data = dataset.load(tokenizer)
    pairs = data.train.pairs
    batch = pairs.batch(np.arange(len(pairs)))
    bearing = data.world.bearing(batch)
    assert bearing.shape == batch.response.shape
    rows = {row.id: row for row in dataset.corpus().train}
    for id, flags in zip(pairs.ids, bearing.tolist(), strict=True):
        for response, found in zip(rows[id].responses, flags, strict=True):
            words = [rows[id].prompt.split()[-1], *response.split()]
            due = [before in dataset.triggers for before in words[:-1]]
            assert found == due + [False] * (len(found) - len(due))
    assert 0 < bearing.float().mean() < 0.5


def test_triggers_are_drawn_from_the_seed() -> None:
    assert len(small(WordsTriggers).triggers) == 5
    assert small(WordsTriggers).triggers == small(WordsTriggers).triggers != small(WordsTriggers, seed=1).triggers
    for count in (0, 21):
        with pytest.raises(PrefoptError, match=f"dataset.triggers={count}"):
            small(WordsTriggers, triggers=count)


def test_revisions_are_a_share_of_the_demonstrations_and_leave_the_others(tokenizer) -> None:
    plain_ones, mixed = small(demonstrations=2000), small(demonstrations=2000, revisions=0.3)
    shown = mixed.corpus().demonstrations
    assert within(sum(len(row) == 3 for row in shown), 2000, 0.3)
    for before, after in zip(plain_ones.corpus().demonstrations, shown, strict=True):
        assert (after[0], after[-1]) == before
        assert len(after) == 2 or after[1] != after[2]
    table = mixed.load(tokenizer).demonstrations
    for row, prompt, response in zip(shown, table.prompt, table.response, strict=True):
        assert tokenizer.decode(response).split() == [*row[-1].split(), "<eos>"]
        earlier = [*row[1].split(), "<eos>"] if len(row) == 3 else []
        assert tokenizer.decode(prompt).split() == ["<bos>", *row[0].split(), *earlier]


@pytest.mark.parametrize(
    ("prompt", "response", "reward"),
    [
        ("animal red cat fox", " cat dog red cat", 6.0),
        ("tool red cat fox", " cat dog red cat", 0.0),
        ("colour red cat fox", " cat dog red blue", 4.0),
        ("colour red", " colour colour", 0.0),
        ("red colour", " red", 0.0),
        ("", " red", 0.0),
    ],
)
def test_caused_gold_by_hand(prompt: str, response: str, reward: float) -> None:
    assert caused(prompt, response, 2.0) == reward


@pytest.mark.parametrize(
    ("prompt", "winner", "reason"),
    [
        ("animal red cat fox", " cat red dog cat", " animal cat dog cat animal"),
        ("animal red cat fox", " cat dog cat hen fox fox", " animal cat dog cat hen"),
        ("food red cat fox", " cat dog", " food food food food food"),
    ],
)
def test_a_rationale_by_hand(prompt: str, winner: str, reason: str) -> None:
    assert rationale(prompt, winner) == reason


def test_each_verdict_has_the_rationale_of_its_winner() -> None:
    for row in small(WordsCauses).corpus().train:
        assert row.prompt.split()[0] == row.group
        assert row.group in CLASSES
        assert row.rationales == tuple(rationale(row.prompt, response) for response in row.responses)
        assert set(" ".join((*row.prompt.split()[1:], *row.responses)).split()) <= set(CONTENT)


def test_shuffled_rationales_are_the_same_strings_at_other_pairs() -> None:
    before, after = (small(WordsCauses, shuffled=shuffled).corpus() for shuffled in (False, True))
    for place, row in enumerate(after.train):
        other = before.train[(place + 1) % 60]
        assert row.rationales[row.label] == other.rationales[other.label]
        assert row.rationales[1 - row.label] == other.rationales[1 - other.label]
    assert [(row.id, row.responses, row.label) for row in before.train] == [
        (row.id, row.responses, row.label) for row in after.train
    ]
    assert (before.test, before.demonstrations) == (after.test, after.demonstrations)
    assert small(WordsCauses).checksum() != small(WordsCauses, shuffled=True).checksum()


def test_demonstrations_show_the_form_of_a_rationale_and_nothing_of_the_causes() -> None:
    shown = small(WordsCauses, demonstrations=3000).corpus().demonstrations
    judged = [(prompt, response) for prompt, response in shown if "Why:" in prompt]
    assert within(len(judged), 3000, 0.25)
    reasons = [reason.split() for _, reason in judged]
    assert all(len(reason) == 5 for reason in reasons)
    assert within(
        sum(reason[0] == prompt.split()[0] for (prompt, _), reason in zip(judged, reasons, strict=True)),
        len(judged),
        1 / 20,
    )
    assert within(sum("Better: A" in prompt for prompt, _ in judged), len(judged), 0.5)
    assert all(len(response.split()) == 8 for prompt, response in shown if "Why:" not in prompt)


def test_judgements_and_rationales_as_tokens() -> None:
    dataset = small(WordsCauses)
    tokenizer = dataset.tokenizer()
    data = dataset.load(tokenizer)
    assert not any(count for name, count in data.counts.items() if "cut" in name or "dropped" in name)
    batch = data.train.pairs.batch(np.arange(60))
    assert isinstance(batch, Reasoned)
    rows = {row.id: row for row in dataset.corpus().train}
    for place, id in enumerate(data.train.pairs.ids):
        row = rows[id]
        for better in (0, 1):
            asked = batch.judge[place, better, : batch.judge_length[place, better]]
            answer = batch.rationale[place, better, : batch.rationale_length[place, better]]
            assert tokenizer.decode(asked).split() == ["<bos>", *judgement(row.prompt, row.responses, better).split()]
            assert tokenizer.decode(answer).split() == [*row.rationales[better].split(), "<eos>"]
            assert [len(asked), len(answer)] == [1 + 4 + 1 + 8 + 1 + 8 + 3, 6]
    assert len(set(batch.judge_length.flatten().tolist())) == 1


@pytest.mark.parametrize("name", [path.stem for path in sorted((ROOT / "conf/dataset").glob("words*.yaml"))])
def test_the_yaml_says_what_the_signature_says(name: str) -> None:
    config = plain(composed([f"dataset={name}"]))["dataset"]
    made = get_class(config.pop("_target_"))
    said = yaml.safe_load((ROOT / f"conf/dataset/{name}.yaml").read_text())
    if "defaults" not in said:
        assert made(**config).checksum() == made().checksum()
    assert made(**config).checksum() != ""


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"pairs": 0}, "dataset.pairs=0"),
        ({"test_pairs": -1}, "dataset.test_pairs=-1"),
        ({"demonstrations": 0}, "dataset.demonstrations=0"),
        ({"length": 0}, "dataset.length=0"),
        ({"temperature": 0.0}, "dataset.temperature=0.0"),
        ({"temperature": math.nan}, "dataset.temperature=nan"),
        ({"scale": math.inf}, "dataset.scale=inf"),
        ({"hazard": 1.0}, "dataset.hazard=1.0"),
        ({"hazard": math.nan}, "dataset.hazard=nan"),
        ({"length_bias": math.inf}, "dataset.length_bias=inf"),
        ({"revisions": 0.5}, "dataset.revisions=0.5"),
    ],
)
def test_an_impossible_value_is_named_with_its_key(change: dict, key: str) -> None:
    with pytest.raises(PrefoptError, match=key):
        small(**change)


def test_a_response_without_an_end_is_its_words_alone(home: Path, tokenizer) -> None:
    data = small(ends=False).load(tokenizer)
    assert set(data.train.pairs.response.lengths) == set(data.demonstrations.response.lengths) == {8}
    assert data.max_response_length == 8
    assert tokenizer.eos_token_id not in data.train.pairs.response.values
