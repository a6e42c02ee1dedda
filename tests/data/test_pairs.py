"""Real preferences: every form they come in, and every way in which a row or a file can be wrong."""

import gzip
import json
from collections import Counter
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st

from prefopt.config import composed
from prefopt.datasets.corpus import Comparison, order
from prefopt.datasets.pairs import PreferencePairs
from prefopt.datasets.reader import read_hub
from prefopt.datasets.rows import comparison
from prefopt.errors import PrefoptError

HH = "\n\nHuman: Hello\n\nAssistant:"


def row(number: int = 0, **more: Any) -> dict[str, Any]:
    return {"prompt": f"Is {number} even?", "chosen": f" Yes, {number}.", "rejected": f" No, {number}."} | more


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def one(values: dict[str, Any], implicit_prompt: bool = False, **columns: str | None) -> Comparison:
    return comparison("pairs.jsonl:1", values, columns=columns, implicit_prompt=implicit_prompt)


def chosen_rejected(found: Comparison) -> tuple[Any, Any]:
    return found.responses[found.label], found.responses[1 - found.label]


def parted(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    found = one({"chosen": chosen, "rejected": rejected}, implicit_prompt=True)
    return found.prompt, *chosen_rejected(found)


# Forms of a row


def test_a_row_becomes_a_comparison_with_all_that_it_says():
    found = one(row(annotator=7, group="odd", score_chosen=3, score_rejected=1.5, margin=2) | {"id": "a"})
    assert (found.id, found.prompt, found.annotator, found.group, found.margin) == ("a", "Is 0 even?", "7", "odd", 2.0)
    assert chosen_rejected(found) == (" Yes, 0.", " No, 0.")
    assert found.scores is not None
    assert found.scores[found.label] == 3.0
    assert found.scores[1 - found.label] == 1.5
    assert found.label == order("a")
    assert found.where == "pairs.jsonl:1"


def test_columns_are_renamed_and_left_out():
    found = one({"q": "Why?", "good": "So.", "bad": "No.", "id": 3}, prompt="q", chosen="good", rejected="bad", id=None)
    assert found.prompt == "Why?"
    assert chosen_rejected(found) == ("So.", "No.")
    assert found.id != "3"


def test_an_id_is_of_the_content_and_outlives_the_order_of_rows(write):
    rows = [row(i) for i in range(20)]
    there = PreferencePairs(path=str(write(*rows, name="a.jsonl")), test_share=0.3).corpus()
    back = PreferencePairs(path=str(write(*reversed(rows), name="b.jsonl")), test_share=0.3).corpus()
    assert {c.id: (c.prompt, c.responses, c.label) for c in there.train} == {
        c.id: (c.prompt, c.responses, c.label) for c in back.train
    }
    assert {c.label for c in there.train} == {0, 1}


def test_two_annotators_of_the_same_pair_are_two_examples():
    assert one(row(annotator="ann")).id != one(row(annotator="bob")).id


def test_messages_are_read_with_an_explicit_prompt():
    system = {"role": "system", "content": "Be brief."}
    found = one({"prompt": [system, user("Hi")], "chosen": [assistant("Hey")], "rejected": [assistant("No")]})
    assert found.prompt == [system, user("Hi")]
    assert chosen_rejected(found) == ([assistant("Hey")], [assistant("No")])


def test_the_implicit_prompt_of_messages_is_the_shared_leading_ones():
    start = [user("Hi"), assistant("Hey"), user("Bye")]
    got = parted([*start, assistant("Bye!")], [*start, assistant("No.")])
    assert got == (start, [assistant("Bye!")], [assistant("No.")])


def test_the_implicit_prompt_of_a_dialogue_ends_at_the_last_shared_assistant():
    assert parted(HH + " Hey there", HH + " Hey you") == (HH, " Hey there", " Hey you")


def test_sides_that_part_before_their_last_turn_keep_the_later_turns_in_the_response():
    chosen = HH + " Hey\n\nHuman: A\n\nAssistant: B"
    assert parted(chosen, HH + " No") == (HH, " Hey\n\nHuman: A\n\nAssistant: B", " No")


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("The cat sat", "The cat ran", ("The cat", " sat", " ran")),
        ("The cat", "The cat sat", ("The", " cat", " cat sat")),
        ("The cat.", "The cats.", ("The", " cat.", " cats.")),
    ],
)
def test_the_implicit_prompt_of_plain_text_ends_with_a_whole_word(chosen, rejected, expected):
    assert parted(chosen, rejected) == expected


@given(st.text("ab \n", min_size=1), st.text("ab \n"), st.text("ab \n"))
def test_parting_loses_no_character_and_leaves_no_side_empty(start, chosen, rejected):
    try:
        prompt, *answers = parted(start + chosen, start + rejected)
    except PrefoptError:
        return
    assert [prompt + answer for answer in answers] == [start + chosen, start + rejected]
    assert prompt.strip()
    assert all(answer.strip() for answer in answers)
    assert all(answer[0].isspace() for answer in answers)


# Bad input


MESSAGES = {"prompt": [user("Hi")], "chosen": [assistant("a")], "rejected": [assistant("b")]}

BAD_ROWS = {
    "missing_column": ({"prompt": "a", "chosen": "b"}, {}, ["'rejected'", "'prompt', 'chosen'", "dataset.columns"]),
    "missing_prompt": (
        {"chosen": "b", "rejected": "c"},
        {},
        ["'prompt'", "'chosen', 'rejected'", "dataset.implicit_prompt=true"],
    ),
    "not_text": (row(chosen=7), {}, ["'chosen'", "7", "{role, content}"]),
    "not_unicode": (row(chosen="a\ud800"), {}, ["'chosen'", "'\\ud800'", "character 1", "whole character"]),
    "equal_responses": (row(rejected=" Yes, 0."), {}, ["'chosen'", "'rejected'", "' Yes, 0.'", "different"]),
    "empty_response": (row(rejected=" \n"), {}, ["'rejected'", "' \\n'", "write a response"]),
    "empty_prompt": (row(prompt=""), {}, ["'prompt'", "''", "write a prompt"]),
    "not_a_number": (row(score_chosen="9", score_rejected=1), {}, ["'score_chosen'", "'9'", "finite number"]),
    "nan": (row(score_chosen=1, score_rejected=float("nan")), {}, ["'score_rejected'", "nan", "finite number"]),
    "true": (row(margin=True), {}, ["'margin'", "True", "finite number"]),
    "half_a_score": (row(score_chosen=1), {}, ["'score_rejected'", "missing", "both scores"]),
    "mixed_forms": (MESSAGES | {"prompt": "Hi"}, {}, ["'prompt'", "'chosen'", "one form"]),
    "prompt_repeated": (
        row(prompt="Go on", chosen="Go on, do", rejected="Go on, no"),
        {},
        ["'Go on'", "dataset.implicit_prompt=true"],
    ),
    "roles": (
        MESSAGES | {"chosen": [user("Hi"), assistant("a")]},
        {},
        ["'chosen'", "message 2", "'user'", "'assistant' is due"],
    ),
    "prompt_of_the_assistant": (
        MESSAGES | {"prompt": [user("a"), assistant("b")]},
        {},
        ["message 2", "'assistant'", "'user' is due"],
    ),
    "unknown_role": (MESSAGES | {"prompt": [{"role": "human", "content": "Hi"}]}, {}, ["message 1", "'human'"]),
    "messages_differ": (
        {"chosen": [user("a"), assistant("x")], "rejected": [user("b"), assistant("y")]},
        {"implicit_prompt": True},
        ["share no prompt", "'content': 'a'", "same messages"],
    ),
    "part_at_the_user": (
        {
            "chosen": [user("a"), assistant("b"), user("c"), assistant("x")],
            "rejected": [user("a"), assistant("b"), user("d"), assistant("x")],
        },
        {"implicit_prompt": True},
        ["share no prompt", "same messages"],
    ),
    "dialogues_differ": (
        {"chosen": HH + " a", "rejected": HH.replace("Hello", "Bye") + " b"},
        {"implicit_prompt": True},
        ["share no prompt", "Bye", "same dialogue up to '\\n\\nAssistant:'"],
    ),
    "words_differ": (
        {"chosen": "one thing", "rejected": "another thing"},
        {"implicit_prompt": True},
        ["share no prompt", "'one thing'", "same words"],
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_ends_the_command_and_says_where_what_and_how_to_mend_it(write, case):
    bad, options, said = BAD_ROWS[case]
    good = {"chosen": HH + " a", "rejected": HH + " b"} if options else row(1)
    path = write(good, bad)
    with pytest.raises(PrefoptError) as caught:
        PreferencePairs(path=str(path), **options).corpus()
    for words in (f"{path}:2: ", *said, "mend: "):
        assert words in str(caught.value)


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_dropped_and_counted_when_that_is_asked_for(write, case):
    bad, options, _ = BAD_ROWS[case]
    start = HH if options else ""
    good = [{"prompt": f"{i}?", "chosen": f"{start} a{i}", "rejected": f"{start} b{i}"} for i in range(2)]
    write(good[0], bad, name="data/train.jsonl")
    folder = write(good[1], name="data/test.jsonl").parent
    corpus = PreferencePairs(path=str(folder), on_bad="drop", **options).corpus()
    assert [len(corpus.train), len(corpus.test)] == [1, 1]
    dropped = {key: count for key, count in corpus.counts.items() if "dropped" in key}
    assert corpus.counts["train/read"] == 2
    assert list(dropped.values()) == [1]


def test_a_repeated_id_is_an_error_also_across_splits(write):
    write(row(1, id="a"), name="data/train.jsonl")
    folder = write(row(2, id="a"), name="data/test.jsonl").parent
    with pytest.raises(
        PrefoptError, match=r"test\.jsonl:1: id 'a' stands at .*train\.jsonl:1 already\n.*id of its own"
    ):
        PreferencePairs(path=str(folder)).corpus()


def test_a_repeated_row_is_an_error_or_dropped_and_counted(write):
    path = write(*[row(i) for i in range(30)], row(3))
    with pytest.raises(PrefoptError, match=r"pairs\.jsonl:31: the same prompt, .* at .*pairs\.jsonl:4\n.*take the row"):
        PreferencePairs(path=str(path)).corpus()
    corpus = PreferencePairs(path=str(path), on_bad="drop").corpus()
    assert corpus.counts["train/dropped_duplicate"] == 1
    assert len(corpus.train) + len(corpus.test) == 30


def test_malformed_json_names_its_line_and_is_never_dropped(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(row()) + '\n\n{"prompt": "a", chosen}\n')
    with pytest.raises(PrefoptError, match=r"pairs\.jsonl:3: not JSON at column 17 .*chosen\}.*\n.*one JSON object"):
        PreferencePairs(path=str(path), on_bad="drop").corpus()


@pytest.mark.parametrize("line", ["null", "[1]", '"a"'])
def test_a_line_that_is_no_object_names_its_value(tmp_path, line):
    path = tmp_path / "pairs.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(PrefoptError, match=r"pairs\.jsonl:1: .* is not a JSON object"):
        PreferencePairs(path=str(path)).corpus()


@pytest.mark.parametrize(("suffix", "line"), [(".jsonl", 2), (".json", 2)])
def test_a_file_that_is_not_utf8_names_line_and_byte(tmp_path, suffix, line):
    path = tmp_path / f"pairs{suffix}"
    first, second = json.dumps(row()), '{"prompt": "caf\xe9"}'
    lines = [first, second] if suffix == ".jsonl" else [f"[{first},", f"{second}]"]
    path.write_bytes("\n".join(lines).encode("latin-1"))
    with pytest.raises(PrefoptError, match=rf"pairs\{suffix}:{line}: not UTF-8: byte 0xe9 in .*caf.*\n.*UTF-8"):
        PreferencePairs(path=str(path)).corpus()


def test_a_gzip_file_that_was_cut_names_its_line(tmp_path):
    path = tmp_path / "pairs.jsonl.gz"
    whole = gzip.compress("".join(json.dumps(row(i)) + "\n" for i in range(500)).encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PrefoptError, match=r"pairs\.jsonl\.gz:\d+: not a whole gzip file .*\n.*again"):
        PreferencePairs(path=str(path)).corpus()


def test_a_broken_parquet_file_is_named(tmp_path):
    path = tmp_path / "pairs.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(PrefoptError, match=r"pairs\.parquet: not a whole Parquet file"):
        PreferencePairs(path=str(path)).corpus()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"path": None}, r"dataset\.path is not given.*\n.*dataset\.path=<file or folder>"),
        ({"path": "nowhere.jsonl"}, r"dataset\.path=nowhere\.jsonl: no such file"),
        ({"on_bad": "skip"}, r"dataset\.on_bad=skip is unknown\n.*raise, drop"),
        ({"demonstrations": "all"}, r"dataset\.demonstrations=all is unknown\n.*both, chosen"),
        ({"prompt_truncation": "end"}, r"dataset\.prompt_truncation=end is unknown\n.*keep_end, keep_start, drop"),
        ({"columns": {"promt": "q"}}, r"dataset\.columns=promt is unknown\n.*prompt"),
        ({"test_share": 1.0}, r"dataset\.test_share=1\.0 is no share"),
        ({"limit": 0}, r"dataset\.limit=0 leaves no row"),
        ({"test_split": "dev"}, r"dataset\.test_split=dev: .* no such split\n.*train"),
    ],
)
def test_an_option_that_cannot_be_is_an_error(write, options, said):
    with pytest.raises(PrefoptError, match=said):
        PreferencePairs(**{"path": str(write(row())), **options}).corpus()


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.jsonl.zip"])
def test_another_kind_of_file_is_an_error_that_names_the_kinds(write, name):
    with pytest.raises(PrefoptError, match=r"not read from such a file\n.*\.jsonl, .*\.parquet"):
        PreferencePairs(path=str(write(row(), name=name))).corpus()


def test_a_folder_without_preferences_is_an_error(tmp_path):
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(PrefoptError, match=r"no file of preferences in the folder\n.*train\.\*"):
        PreferencePairs(path=str(tmp_path)).corpus()


def test_an_empty_file_is_an_error(write):
    with pytest.raises(PrefoptError, match="no row is left in train: none was read"):
        PreferencePairs(path=str(write())).corpus()


def test_rows_that_are_all_bad_are_an_error_even_when_dropped(write):
    path = write(row(chosen=""), row(chosen=""))
    with pytest.raises(PrefoptError, match=r"no row is left in train: .*'train/dropped_empty_response': 2"):
        PreferencePairs(path=str(path), on_bad="drop").corpus()


def test_the_hub_out_of_reach_asks_for_a_path():
    with pytest.raises(PrefoptError, match=r"dataset\.name=nobody/nothing: .*\n.*dataset\.path="):
        read_hub("nobody/nothing")


# Files and splits


def test_every_kind_of_file_gives_the_same_data(tmp_path, write):
    rows = [row(i, score_chosen=1.0, score_rejected=0.5) for i in range(40)]
    plain = write(*rows)
    (tmp_path / "pairs.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "pairs.json").write_text(json.dumps(rows, indent=1))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet", row_group_size=7)
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    names = ("pairs.jsonl", "pairs.jsonl.gz", "pairs.json", "pairs.parquet", "saved")
    found = {name: PreferencePairs(path=str(tmp_path / name)) for name in names}
    assert len({data.checksum() for data in found.values()}) == 1
    wheres = {name: data.corpus().train[-1].where for name, data in found.items()}
    assert wheres["pairs.jsonl"].removeprefix(str(plain)) == wheres["pairs.parquet"].removeprefix(
        str(tmp_path / "pairs.parquet")
    )


def test_messages_survive_parquet_and_save_to_disk(tmp_path):
    rows = [{**MESSAGES, "prompt": [user(f"Hi {i}")]} for i in range(40)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    splits = {"train": datasets.Dataset.from_list(rows[:30]), "test": datasets.Dataset.from_list(rows[30:])}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    corpus = PreferencePairs(path=str(tmp_path / "saved")).corpus()
    assert [len(corpus.train), len(corpus.test)] == [30, 10]
    assert corpus.train[0].prompt == [user("Hi 0")]
    assert corpus.train[0].where.endswith("saved[train]:1")
    alike = PreferencePairs(path=str(tmp_path / "pairs.parquet")).corpus()
    assert {c.id for c in alike.train} | {c.id for c in alike.test} == {c.id for c in (*corpus.train, *corpus.test)}


def test_a_folder_of_shards_is_read_in_order_and_the_test_split_found(write):
    write(row(2), name="hub/data/train_prefs-00001-of-00002.jsonl")
    write(row(1), name="hub/data/train_prefs-00000-of-00002.jsonl")
    folder = write(row(3), name="hub/data/test_prefs-00000-of-00001.jsonl").parent.parent
    (folder / "dataset_infos.json").write_text("{}")
    corpus = PreferencePairs(path=str(folder), train_split="train_prefs", test_split="test_prefs").corpus()
    assert [c.prompt for c in corpus.train] == ["Is 1 even?", "Is 2 even?"]
    assert [c.prompt for c in corpus.test] == ["Is 3 even?"]


def test_a_prompt_is_held_out_whole_and_stays_so_when_rows_come(write):
    rows = [row(i, chosen=f" Yes, {i} {j}.") for i in range(60) for j in range(3)]
    small = PreferencePairs(path=str(write(*rows[:90], name="small.jsonl")), test_share=0.25).corpus()
    large = PreferencePairs(path=str(write(*rows, name="large.jsonl")), test_share=0.25).corpus()
    held_out = {c.prompt for c in large.test}
    assert held_out.isdisjoint(c.prompt for c in large.train)
    assert {c.prompt for c in small.test} == held_out & {c.prompt for c in (*small.train, *small.test)}
    assert 0.1 < len(held_out) / 60 < 0.4
    assert large.counts == {"train/read": 180, "train/held_out": len(large.test)}


def test_too_few_prompts_to_hold_one_out_is_an_error(write):
    with pytest.raises(PrefoptError, match=r"test_share=0\.1 of the prompts leaves \d rows .*\n.*file of its own"):
        PreferencePairs(path=str(write(row()))).corpus()


def test_the_limit_reads_the_first_rows_of_each_split(write):
    write(*[row(i) for i in range(5)], name="data/train.jsonl")
    folder = write(*[row(i) for i in range(5, 9)], name="data/validation.jsonl").parent
    corpus = PreferencePairs(path=str(folder), limit=3).corpus()
    assert [c.prompt for c in corpus.train] == [f"Is {i} even?" for i in range(3)]
    assert corpus.counts == Counter({"train/read": 3, "test/read": 3})


def test_both_responses_are_imitated_unless_the_chosen_ones_are_asked_for(write):
    path = write(*[row(i) for i in range(30)])
    both = PreferencePairs(path=str(path)).corpus()
    chosen = PreferencePairs(path=str(path), demonstrations="chosen").corpus()
    assert len(both.demonstrations) == 2 * len(both.train)
    assert {response for _, response in chosen.demonstrations} == {chosen_rejected(c)[0] for c in both.train}


def test_what_is_imitated_does_not_change_when_labels_are_swapped(write):
    rows = [row(i, id=str(i)) for i in range(30)]
    swapped = [values | {"chosen": values["rejected"], "rejected": values["chosen"]} for values in rows]
    there, back = (
        PreferencePairs(path=str(write(*some, name=name))).corpus()
        for some, name in ((rows, "a.jsonl"), (swapped, "b.jsonl"))
    )
    assert set(there.demonstrations) == set(back.demonstrations)


def test_texts_hold_all_of_the_training_split_and_nothing_of_the_test_split(write):
    write(row(1), name="data/train.jsonl")
    folder = write(row(2), name="data/test.jsonl").parent
    assert sorted(PreferencePairs(path=str(folder)).texts()) == [" No, 1.", " Yes, 1.", "Is 1 even?"]


def test_the_checksum_sees_content_and_rules_but_not_the_path(write):
    rows = [row(i) for i in range(30)]
    path = str(write(*rows))
    checksum = PreferencePairs(path=path).checksum()
    assert PreferencePairs(path=str(write(*rows, name="elsewhere/else.jsonl"))).checksum() == checksum
    assert PreferencePairs(path=path, max_response_length=9).checksum() != checksum
    assert PreferencePairs(path=path, demonstrations="chosen").checksum() != checksum
    swapped = rows[0] | {"chosen": rows[0]["rejected"], "rejected": rows[0]["chosen"]}
    assert PreferencePairs(path=str(write(swapped, *rows[1:], name="b.jsonl"))).checksum() != checksum


# Presets


def ultrafeedback_row(number: int) -> dict[str, Any]:
    start = user(f"Task {number}")
    return {
        "prompt": start["content"],
        "prompt_id": "x",
        "chosen": [start, assistant("good")],
        "rejected": [start, assistant("bad")],
        "messages": [start, assistant("good")],
        "score_chosen": 8.0,
        "score_rejected": 6.5,
    }


PRESETS = {
    "pairs": lambda i: row(i),
    "imdb": lambda i: row(i, score_chosen=0.9, score_rejected=0.1),
    "tldr": lambda i: row(i),
    "hh_rlhf": lambda i: {"chosen": f"\n\nHuman: {i}\n\nAssistant: a", "rejected": f"\n\nHuman: {i}\n\nAssistant: b"},
    "ultrafeedback": ultrafeedback_row,
}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_reads_files_of_its_form_offline(write, preset):
    config = composed([f"dataset={preset}"]).dataset
    write(*[PRESETS[preset](i) for i in range(4)], name=f"data/{config.train_split}.jsonl")
    folder = write(PRESETS[preset](4), name=f"data/{config.test_split or 'test'}.jsonl").parent
    corpus = instantiate(config, path=str(folder)).corpus()
    assert [len(corpus.train), len(corpus.test)] == [4, 1]
    assert not any("dropped" in key for key in corpus.counts)


@pytest.mark.shared_data
def test_harmless_dialogues_load_whole_with_their_three_empty_responses_counted(shared_data, tokenizer, home):
    data = instantiate(composed(["dataset=hh_rlhf"]).dataset, path=str(shared_data / "hh_harmless"))
    corpus = data.corpus()
    assert corpus.counts == {"train/read": 1500, "train/dropped_empty_response": 3, "test/read": 400}
    assert all(str(c.prompt).endswith("\n\nAssistant:") for c in (*corpus.train, *corpus.test))
    loaded = data.load(tokenizer)
    assert [len(loaded.train.pairs), len(loaded.test.pairs)] == [1497, 400]
    assert loaded.counts["train/used"] == 1497
    assert loaded.counts["test/used"] == 400
