"""Rationales that come with real preferences: read, checked, made tokens of, and handed to who asks for them."""

from typing import Any

import numpy as np
import pytest

from prefopt.batch import Pairs, Reasoned
from prefopt.datasets.pairs import PreferencePairs
from prefopt.datasets.rows import comparison
from prefopt.errors import PrefoptError
from prefopt.methods.base import Method
from prefopt.run import food

TURN = (
    "{% for m in messages %}<|turn|>{{ m.role }} {{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant {% endif %}"
)


def row(number: int = 0, **more: Any) -> dict[str, Any]:
    return {"prompt": f"Is {number} even?", "chosen": f" Yes, {number}.", "rejected": f" No, {number}."} | more


def read(values: dict[str, Any], **columns: str | None) -> tuple[str, str] | None:
    """Its rationales: of what it records, and of the other verdict."""
    found = comparison("pairs.jsonl:1", values, columns=columns, implicit_prompt=False)
    return found.rationales and (found.rationales[found.label], found.rationales[1 - found.label])


def test_a_row_says_why_by_verdict() -> None:
    for number in range(8):  # of either order
        both = row(number, rationale="It is right.", rationale_flipped="It is short.")
        assert read(both) == ("It is right.", "It is short.")
        assert read(row(number, rationale="It is right.")) == ("It is right.", "")
        assert read(row(number, rationale="It is right.", rationale_flipped=None)) == ("It is right.", "")
    assert read(row()) is None
    assert read(row(why="So."), rationale="why") == ("So.", "")


def test_a_column_is_left_out_when_that_is_asked_for() -> None:
    assert read(row(rationale="", rationale_flipped=""), rationale=None) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"rationale": ""},
        {"rationale": " \n"},
        {"rationale": None},
        {"rationale": "So.", "rationale_flipped": ""},
        {"rationale_flipped": "So."},
        {"rationale": [{"role": "user", "content": "So."}]},
    ],
)
def test_an_empty_rationale_is_an_error_or_dropped_and_counted(write, wrong: dict[str, Any]) -> None:
    rows = [row(number, rationale="So.") for number in range(40)]
    path = str(write(*rows, row(99) | wrong))
    with pytest.raises(PrefoptError, match=r"(?s)pairs.jsonl:41.*says nothing.*columns.rationale=null.*on_bad=drop"):
        PreferencePairs(path=path).corpus()
    corpus = PreferencePairs(path=path, on_bad="drop").corpus()
    assert corpus.counts["train/dropped_empty_rationale"] == 1
    assert len(corpus.train) + len(corpus.test) == 40


def load(write, tokenizer, *rows: dict[str, Any], **options: Any) -> Any:
    return PreferencePairs(path=str(write(*rows)), test_share=0.3, **options).load(tokenizer)


def test_both_verdicts_become_tokens(write, tokenizer, home) -> None:
    rows = [row(n, id=str(n), rationale=f"Yes to {n}.", rationale_flipped=f"No to {n}.") for n in range(40)]
    data = load(write, tokenizer, *rows)
    for table in (data.train.pairs, data.test.pairs):
        assert table.kind is Reasoned
        batch = table.batch(np.arange(len(table)))
        for place, id in enumerate(table.ids):
            recorded = int(batch.label[place])
            texts = [
                tokenizer.decode(t[:k])
                for t, k in zip(batch.rationale[place], batch.rationale_length[place], strict=True)
            ]
            assert texts[recorded] == f"Yes to {id}.</s>"
            assert texts[1 - recorded] == f"No to {id}.</s>"
            asked = [
                tokenizer.decode(t[:k]) for t, k in zip(batch.judge[place], batch.judge_length[place], strict=True)
            ]
            sides = [f" Yes, {id}.", f" No, {id}."] if recorded == 0 else [f" No, {id}.", f" Yes, {id}."]
            body = f"<s>Is {id} even?\n\nA:{sides[0]}\n\nB:{sides[1]}\n\nBetter: "
            assert asked == [f"{body}A\n\nWhy:", f"{body}B\n\nWhy:"]


def test_a_verdict_without_a_reason_has_no_tokens(write, tokenizer, home) -> None:
    table = load(write, tokenizer, *(row(n, rationale="So.") for n in range(40))).train.pairs
    batch = table.batch(np.arange(len(table)))
    lengths = batch.rationale_length[np.arange(len(table)), batch.label]
    assert (lengths > 0).all()
    assert (batch.rationale_length.sum(1) == lengths).all()
    assert ((batch.judge_length > 0) == (batch.rationale_length > 0)).all()


def test_messages_ask_and_answer_by_the_chat_template(write, tokenizer, home) -> None:
    def spoken(n: int) -> dict[str, Any]:
        said = {key: [{"role": "assistant", "content": f"{key} {n}"}] for key in ("chosen", "rejected")}
        return {"prompt": [{"role": "user", "content": f"Is {n} even?"}], **said, "rationale": "So."}

    tokenizer.chat_template = TURN
    try:
        table = load(write, tokenizer, *(spoken(n) for n in range(40))).train.pairs
    finally:
        tokenizer.chat_template = None
    batch = table.batch(np.array([0]))
    recorded = int(batch.label[0])
    asked = tokenizer.decode(batch.judge[0, recorded, : batch.judge_length[0, recorded]])
    assert asked.startswith("<s><|turn|>user \n\nHuman: Is ")
    assert asked.endswith(f"Better: {'AB'[recorded]}\n\nWhy:<|turn|>assistant ")
    assert tokenizer.decode(batch.rationale[0, recorded, : batch.rationale_length[0, recorded]]) == "So.</s>"


def test_a_row_without_a_reason_among_others_is_an_error_or_dropped(write, tokenizer, home) -> None:
    rows = [*(row(n, id=str(n), rationale="So.") for n in range(40)), row(99, id="bare")]
    with pytest.raises(PrefoptError, match=r"(?s)pairs.jsonl:41.*no rationale.*columns.rationale=null"):
        load(write, tokenizer, *rows)
    data = load(write, tokenizer, *rows, on_bad="drop")
    kept = [*data.train.pairs.ids, *data.test.pairs.ids]
    assert sorted(kept) == sorted(str(n) for n in range(40))
    assert data.counts["train/dropped_empty_rationale"] + data.counts.get("test/dropped_empty_rationale", 0) == 1
    assert data.counts["train/used"] == len(data.train.pairs) == len(data.train.truth.label)


def test_rows_that_tokens_drop_keep_reasons_and_pairs_together(write, tokenizer, home) -> None:
    rows = [row(n, id=str(n), rationale=f"Why {n}.") for n in range(40)]
    rows[5]["chosen"] = rows[5]["rejected"] + "!"
    data = load(write, tokenizer, *rows, max_response_length=3, on_bad="drop", max_prompt_length=64)
    table = data.train.pairs
    assert len(table) < 40
    for place, (id, reason) in enumerate(zip(table.ids, list(table.ragged["judge"])[::2], strict=True)):
        other = list(table.ragged["judge"])[2 * place + 1]
        assert f"Is {id} even?" in tokenizer.decode(reason if len(reason) else other)


def test_pairs_without_rationales_are_as_they_were(write, tokenizer, home) -> None:
    table = load(write, tokenizer, *(row(n) for n in range(40))).train.pairs
    assert table.kind is Pairs
    assert table.ragged == {}


def test_a_method_that_needs_rationales_says_so_where_there_are_none(write, tokenizer, home) -> None:
    class Reasoning(Method):
        eats = Reasoned

    rows = [row(n) for n in range(40)]
    with pytest.raises(PrefoptError, match=r"(?s)Reasoning eats Reasoned.*columns.rationale="):
        food(Reasoning(), load(write, tokenizer, *rows))
    data = load(write, tokenizer, *(row(n, rationale="So.") for n in range(40)))
    assert food(Reasoning(), data) is data.train.pairs
