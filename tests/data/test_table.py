"""Tables: rows of tokens beside the responses, in batches, on disk and in checkpoints."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefopt.batch import Pairs, Prompts, Reasoned
from prefopt.loop.rounds import packed, unpacked
from prefopt.table import Ragged, Table

ROWS = st.lists(st.lists(st.integers(1, 9), max_size=4), min_size=2, max_size=16)


def table(kind: type = Reasoned) -> Table:
    return Table(
        kind=kind,
        ids=np.array(["a", "b", "c"]),
        prompt=Ragged.of([[1], [1, 2], [3]]),
        response=Ragged.of([[4, 5], [6], [7], [8, 9], [4], [5]]),
        columns={"label": np.array([0, 1, 1])},
        known={"group": np.array([0, 1, 0])},
        ragged={
            "judge": Ragged.of([[1, 4], [1, 5, 5], [2], [3], [4, 4], []]),
            "rationale": Ragged.of([[7], [8], [9, 9, 9], [1], [], [2]]),
        },
    )


def test_a_batch_has_its_examples_rows() -> None:
    batch = table().batch(np.array([2, 0]))
    assert isinstance(batch, Reasoned)
    assert batch.judge.tolist() == [[[4, 4, 0], [0, 0, 0]], [[1, 4, 0], [1, 5, 5]]]
    assert batch.judge_length.tolist() == [[2, 0], [2, 3]]
    assert batch.rationale.tolist() == [[[0], [2]], [[7], [8]]]
    assert batch.rationale_length.tolist() == [[0, 1], [1, 1]]
    assert batch.judge.dtype == torch.int64


def test_two_processes_share_the_rows() -> None:
    parts = [table().batch(np.array([0, 1, 2]), rank, 2) for rank in (0, 1)]
    assert [part.rationale_length.tolist() for part in parts] == [[[1, 1], [0, 1]], [[3, 1]]]


def test_a_batch_without_such_fields_leaves_them() -> None:
    assert table(Pairs).batch(np.array([0])).label.tolist() == [0]
    assert replace(table(Prompts), columns={}).batch(np.array([0])).prompt.tolist() == [[1]]


def test_it_comes_back_from_disk_and_from_a_checkpoint(tmp_path: Path) -> None:
    before = table()
    before.save(tmp_path)
    for after in (Table.load(tmp_path), unpacked(packed(before))):
        assert after.kind is Reasoned
        assert after.arrays().keys() == before.arrays().keys()
        for name, values in before.arrays().items():
            np.testing.assert_array_equal(after.arrays()[name], values)


def test_neither_reasons_nor_labels_change_the_tokens_checksum() -> None:
    bare = Table(Pairs, table().ids, table().prompt, table().response, columns={"label": np.zeros(3)})
    assert bare.checksum() == table().checksum()


@given(ROWS, st.data())
def test_take_is_a_choice_of_rows(rows: list[list[int]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    taken = Ragged.of(rows).take(np.array(chosen, dtype=np.int64))
    assert [part.tolist() for part in np.split(taken.values, taken.offsets[1:-1])][: len(chosen)] == [
        rows[row] for row in chosen
    ]
    assert taken.lengths.tolist() == [len(rows[row]) for row in chosen]
