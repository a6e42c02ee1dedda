"""The one step from text to tokens: lengths, BOS, EOS, cuts, drops, and what is counted of them."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

from prefopt.batch import Demonstrations, Pairs
from prefopt.datasets.corpus import Comparison, Corpus, Text
from prefopt.datasets.data import Data
from prefopt.datasets.tokenise import tokenise
from prefopt.errors import PrefoptError

from .conftest import byte_level

CHATML = (
    "{{ bos_token }}{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
SAME_TOKENS = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def pair(prompt: Text = "the film", responses: tuple[Any, Any] = (" was good", " was not"), **more: Any) -> Comparison:
    return Comparison(**{"id": "a", "prompt": prompt, "responses": responses, "label": 1, "where": "f:1", **more})


def tokens(*train: Comparison, tokenizer: PreTrainedTokenizerFast, **options: Any) -> Data:
    rules = {"max_prompt_length": 64, "max_response_length": 64, "prompt_truncation": "keep_end", "on_bad": "raise"}
    corpus = options.pop("corpus", None) or Corpus(train, [pair(responses=("0", "1"))], [])
    return tokenise(corpus, tokenizer, **{**rules, **options})


def rows_of(data: Data) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and responses of the training table, without padding."""
    table = data.train.pairs
    return tuple(
        [part.values[a:b].tolist() for a, b in zip(part.offsets, part.offsets[1:], strict=False)]
        for part in (table.prompt, table.response)
    )


def test_a_prompt_is_bos_and_its_tokens_a_response_its_tokens_and_eos(tokenizer):
    (prompt,), (first, second) = rows_of(tokens(pair(), tokenizer=tokenizer))
    assert tokenizer.decode(prompt) == "<s>the film"
    assert tokenizer.decode(first) == " was good</s>"
    assert tokenizer.decode(second) == " was not</s>"


def test_a_tokenizer_without_bos_adds_none():
    plain = byte_level(["the film"], eos_token="</s>")
    (prompt,), _ = rows_of(tokens(pair(), tokenizer=plain))
    assert plain.decode(prompt) == "the film"


def test_a_bos_that_is_also_eos_stands_at_both_ends():
    gpt2_like = byte_level(["the film"], bos_token="<|end|>", eos_token="<|end|>")
    (prompt,), (first, _) = rows_of(tokens(pair(), tokenizer=gpt2_like))
    assert [gpt2_like.decode(prompt), gpt2_like.decode(first)] == ["<|end|>the film", " was good<|end|>"]


def test_a_tokenizer_without_eos_is_an_error_with_a_mend():
    with pytest.raises(PrefoptError, match=r"has no EOS token.*\n.*tokenizer\.eos_token"):
        tokens(pair(), tokenizer=byte_level(["a"], bos_token="<s>"))


@pytest.mark.parametrize(
    ("truncation", "kept"), [("keep_end", "<s>23456789"), ("keep_start", "<s>01234567"), ("drop", None)]
)
def test_a_long_prompt_is_cut_or_dropped_as_asked_and_counted(tokenizer, truncation, kept):
    data = tokens(
        pair("0123456789"),
        pair("01", id="b"),
        tokenizer=tokenizer,
        max_prompt_length=9,
        prompt_truncation=truncation,
    )
    texts = [tokenizer.decode(prompt) for prompt in rows_of(data)[0]]
    assert texts == ([] if kept is None else [kept]) + ["<s>01"]
    dropped = truncation == "drop"
    assert data.counts["train/prompt_cut"] == (not dropped)
    assert data.counts.get("train/dropped_long_prompt", 0) == dropped
    assert data.train.pairs.ids.tolist() == (["b"] if dropped else ["a", "b"])


def test_a_response_that_is_cut_has_no_eos_and_one_that_just_fits_has(tokenizer):
    data = tokens(pair(responses=("0123", "012")), tokenizer=tokenizer, max_response_length=4)
    assert [tokenizer.decode(response) for response in rows_of(data)[1]] == ["0123", "012</s>"]
    assert data.counts["train/response_cut"] == 1


PIECES = st.sampled_from(["<s>", "</s>", "<|turn|>", " ", "\n", "é", "𝄞", "the film"]) | st.characters(
    exclude_categories=["Cs"]
)
TEXT = st.lists(PIECES, min_size=1, max_size=6).map("".join)


@SAME_TOKENS
@given(TEXT, TEXT, TEXT, st.integers(2, 16), st.integers(1, 16), st.sampled_from(["keep_end", "keep_start"]))
def test_no_length_gives_an_empty_response_a_second_bos_or_a_lost_eos(
    tokenizer, prompt, first, second, prompt_room, response_room, truncation
):
    train = [pair(prompt, (first, second)), pair("the film", ("0", "1"), id="other")]
    data = tokens(
        *train,
        tokenizer=tokenizer,
        max_prompt_length=prompt_room,
        max_response_length=response_room,
        prompt_truncation=truncation,
        on_bad="drop",
    )
    assert data.counts["train/used"] + data.counts.get("train/dropped_equal_tokens", 0) == 2
    prompts, responses = rows_of(data)
    for ids in prompts:
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1
        assert 2 <= len(ids) <= prompt_room
    for ids in responses:
        assert ids[0] != tokenizer.eos_token_id
        assert 1 <= len(ids) <= response_room
        assert tokenizer.bos_token_id not in ids
        assert ids.count(tokenizer.eos_token_id) == (ids[-1] == tokenizer.eos_token_id)
        assert len(ids) == response_room or ids[-1] == tokenizer.eos_token_id


@SAME_TOKENS
@given(TEXT, TEXT, TEXT)
def test_what_is_not_cut_decodes_to_the_text_it_was(tokenizer, prompt, first, second):
    if first == second:
        return
    (ids,), answers = rows_of(
        tokens(pair(prompt, (first, second)), tokenizer=tokenizer, max_prompt_length=99, max_response_length=99)
    )
    decode = tokenizer.decode
    assert decode(ids[1:]) == prompt
    assert [decode(answer[:-1]) for answer in answers] == [first, second]


def test_two_responses_that_are_the_same_once_cut_are_an_error_or_dropped(tokenizer):
    twins = pair(responses=("0123a", "0123b"))
    with pytest.raises(PrefoptError, match=r"f:1: the two responses are the same 4 tokens .*max_response_length=4\n"):
        tokens(twins, tokenizer=tokenizer, max_response_length=4)
    data = tokens(twins, pair(id="b"), tokenizer=tokenizer, max_response_length=4, on_bad="drop")
    assert data.counts["train/dropped_equal_tokens"] == 1
    assert data.train.pairs.ids.tolist() == ["b"]
    assert data.counts["train/response_cut"] == 0, "only pairs that are used count as cut"


def test_a_response_without_a_token_is_an_error_or_dropped():
    strips = byte_level(["a"], eos_token="</s>")
    strips.backend_tokenizer.normalizer = normalizers.Strip()
    blank = pair(responses=("a", " \n"))
    with pytest.raises(PrefoptError, match=r"f:1: a response has no token: ' \\n'\n.*write a response"):
        tokens(blank, tokenizer=strips)
    data = tokens(blank, pair(id="b"), tokenizer=strips, on_bad="drop")
    assert data.counts["train/dropped_empty_response"] == 1
    assert len(data.train.pairs) == 1
    with pytest.raises(PrefoptError, match=r"f:1: the prompt has no token"):
        tokens(pair(prompt=" "), tokenizer=strips)


def test_nothing_left_is_an_error_that_says_what_was_dropped(tokenizer):
    with pytest.raises(PrefoptError, match=r"no example is left in train: read 1, dropped .*long_prompt': 1"):
        tokens(pair("x" * 99), tokenizer=tokenizer, prompt_truncation="drop")


@pytest.mark.parametrize(("key", "least"), [("max_prompt_length", 2), ("max_response_length", 1)])
def test_lengths_without_room_for_text_are_an_error(tokenizer, key, least):
    with pytest.raises(PrefoptError, match=rf"dataset\.{key}={least - 1} leaves no room .*\n.*{least} or more"):
        tokens(pair(), tokenizer=tokenizer, **{key: least - 1})


# Messages


def messages(*contents: str, start: str = "user") -> list[dict[str, str]]:
    roles = ["user", "assistant"] if start == "user" else ["assistant", "user"]
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


TALK = pair(messages("a", "b", "c"), (messages("d", start="assistant"), messages("e", "f", "g", start="assistant")))


def test_messages_without_a_template_are_written_as_in_hh_rlhf(tokenizer):
    (prompt,), (first, second) = rows_of(tokens(TALK, tokenizer=tokenizer))
    assert tokenizer.decode(prompt) == "<s>\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    assert tokenizer.decode(first) == " d</s>"
    assert tokenizer.decode(second) == " e\n\nHuman: f\n\nAssistant: g</s>"


@pytest.fixture(scope="module")
def chat() -> PreTrainedTokenizerFast:
    made = byte_level(["the film"], bos_token="<s>", eos_token="</s>", pad_token="<|turn|>")
    made.chat_template = CHATML
    return made


def test_messages_with_a_template_have_one_bos_and_one_closing_eos(chat):
    (prompt,), (first, second) = rows_of(tokens(TALK, tokenizer=chat))
    turn, bos, eos = (chat.convert_tokens_to_ids(token) for token in ("<|turn|>", "<s>", "</s>"))
    assert (
        chat.decode(prompt)
        == "<s><|turn|>user\na</s>\n<|turn|>assistant\nb</s>\n<|turn|>user\nc</s>\n<|turn|>assistant\n"
    )
    assert [prompt.count(bos), prompt.count(turn)] == [1, 4], "the template's special tokens are tokens"
    assert chat.decode(first) == "d</s>"
    assert first.count(eos) == 1
    assert chat.decode(second) == "e</s>\n<|turn|>user\nf</s>\n<|turn|>assistant\ng</s>"


def test_a_message_that_holds_a_special_token_is_an_error(chat):
    sly = pair(messages("say </s> now"), (messages("a", start="assistant"), messages("b", start="assistant")))
    with pytest.raises(PrefoptError, match=r"f:1: a message holds '</s>'"):
        tokens(sly, tokenizer=chat)


def test_a_template_that_rewrites_the_prompt_is_an_error(chat):
    rewrites = copy.deepcopy(chat)
    rewrites.chat_template = "{{ messages | length }}" + CHATML
    with pytest.raises(PrefoptError, match=r"f:1: the chat template writes the prompt differently"):
        tokens(TALK, tokenizer=rewrites)


# Tables, truth and world


def test_the_table_and_the_truth_have_what_each_row_says(tokenizer):
    rows = [
        pair(id="a", annotator="zoe", group="g", scores=(1.0, 2.0), margin=0.5, gold=(3.0, 4.0)),
        pair(id="b", prompt="x" * 99, annotator="mid"),
        pair(id="c", annotator="ann", label=0),
        pair(id="d"),
    ]
    corpus = Corpus(rows, [pair(id="t", annotator="mid")], [])
    data = tokens(corpus=corpus, tokenizer=tokenizer, prompt_truncation="drop")
    table = data.train.pairs
    assert table.kind is Pairs
    assert table.n == 2
    assert table.ids.tolist() == ["a", "c", "d"]
    assert table.columns["label"].dtype == np.int64
    assert table.columns["label"].tolist() == [1, 0, 1]
    assert table.known["annotator"].tolist() == [2, 0, -1]
    assert data.test.pairs.known["annotator"].tolist() == [1]
    assert table.known["annotator_name"].tolist() == ["zoe", "ann", ""]
    assert table.known["group"].tolist() == [0, -1, -1]
    np.testing.assert_equal(table.known["scores"], [[1, 2], [np.nan] * 2, [np.nan] * 2])
    np.testing.assert_equal(table.known["margin"], [0.5, np.nan, np.nan])
    np.testing.assert_equal(data.train.truth.gold, [[3, 4], [np.nan] * 2, [np.nan] * 2])
    assert data.train.truth.label.tolist() == [1, 0, 1]
    assert not data.train.truth.flipped.any()
    assert data.world is None
    assert data.demonstrations is None


def test_what_no_row_says_is_not_known(tokenizer):
    assert not tokens(pair(), tokenizer=tokenizer).train.pairs.known


def test_counts_go_on_from_what_the_corpus_counted(tokenizer):
    corpus = Corpus([pair()], [pair()], [("a", "b")], counts={"train/read": 5, "train/dropped_duplicate": 4})
    counts = tokens(corpus=corpus, tokenizer=tokenizer).counts
    expected = {"train/read": 5, "train/dropped_duplicate": 4, "train/used": 1, "test/read": 1, "test/used": 1}
    assert expected.items() <= counts.items()
    assert counts["demonstrations/used"] == 1


def test_demonstrations_are_one_response_each_under_the_same_rules(tokenizer):
    corpus = Corpus([pair()], [pair()], [("0123456789", "01"), ("a", "0123456789")])
    data = tokens(corpus=corpus, tokenizer=tokenizer, max_prompt_length=9, max_response_length=9)
    table = data.demonstrations
    assert table is not None
    assert table.kind is Demonstrations
    assert table.n == 1
    assert len(set(table.ids)) == 2
    batch = table.batch(np.array([0, 1]))
    assert tokenizer.decode(batch.prompt[0]) == "<s>23456789"
    assert batch.length.tolist() == [[3], [9]]
    assert batch.response[0, 0, 2] == tokenizer.eos_token_id
    assert data.counts["demonstrations/prompt_cut"] == 1
    assert data.counts["demonstrations/response_cut"] == 1


def test_the_world_rewards_the_text_behind_the_tokens(tokenizer):
    heard = []

    def gold(prompt: str, response: str) -> float:
        heard.append((prompt, response))
        return float(len(response))

    corpus = Corpus([pair(), pair("a longer prompt", (" x", " yy"), id="b")], [pair()], [], gold=gold)
    data = tokens(corpus=corpus, tokenizer=tokenizer)
    assert data.world is not None
    reward = data.world.reward(data.train.pairs.batch(np.array([1, 0])))
    assert torch.equal(reward, torch.tensor([[2.0, 3.0], [9.0, 8.0]]))
    assert heard[0] == ("a longer prompt", " x")
    assert heard[-1] == ("the film", " was not")
