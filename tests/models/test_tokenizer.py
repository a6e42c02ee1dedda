"""The tokenizer trained here: any text through it and back, the same each time, opened again by transformers."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from prefopt.datasets.reviews import Reviews
from prefopt.errors import PrefoptError
from prefopt.models.tokenizer import train_tokenizer

WORLD = Reviews(pairs=300, test_pairs=100, demonstrations=1)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(WORLD.texts(), 1024)


def encoded(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, split_special_tokens=True)["input_ids"]


def test_the_special_tokens_are_0_1_2_and_encoding_adds_none(tokenizer: PreTrainedTokenizerFast) -> None:
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert not {0, 1, 2} & set(encoded(tokenizer, "The room was good."))


@given(st.text() | st.sampled_from(["<eos>", " a , b . don 't", "  two  spaces \n", "naïve 旅館 👍🏽"]))
def test_any_text_comes_back_unchanged(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(encoded(tokenizer, text)) == text


def test_the_same_texts_give_the_same_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    again = train_tokenizer(iter(WORLD.texts()), 1024)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_its_folder_opens_with_auto_tokenizer(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    text = "The hotel was booked for a weekend in March. The room was not very good."
    assert opened(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert opened.decode(opened(text)["input_ids"]) == text
    assert (opened.pad_token_id, opened.bos_token_id, opened.eos_token_id) == (0, 1, 2)
    assert opened.model_max_length == tokenizer.model_max_length == 1024


def test_on_reviews_a_word_is_a_token_and_prompt_and_response_join(tokenizer: PreTrainedTokenizerFast) -> None:
    for row in WORLD.corpus().test:
        prompt = encoded(tokenizer, row.prompt)
        assert len(prompt) <= 12
        for text in row.responses:
            response = encoded(tokenizer, text)
            assert len(response) <= len(text.split()) + text.count(".") + 2
            assert encoded(tokenizer, row.prompt + text) == prompt + response


def test_the_vocabulary_has_at_most_the_tokens_asked_for(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(train_tokenizer(WORLD.texts(), 300)) == 300
    assert len(tokenizer) <= 1024


def test_a_vocabulary_without_room_for_all_bytes_is_refused() -> None:
    assert train_tokenizer(["a"], 259).decode(train_tokenizer(["a"], 259)("é")["input_ids"]) == "é"
    with pytest.raises(PrefoptError, match=r"258.*\n.*259"):
        train_tokenizer(["a"], 258)
