"""The order of examples: a pure function of (seed, round), each row once a pass, taken up anywhere."""

from collections.abc import Iterator
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefopt.batch import Demonstrations
from prefopt.engine.loader import Loader, batches, sequential
from prefopt.table import Ragged, Table


def table(n: int) -> Table:
    lengths = np.arange(n) % 4 + 1
    rows = [list(range(1, length + 1)) for length in lengths]
    return Table(kind=Demonstrations, ids=np.arange(n).astype(str), prompt=Ragged.of(rows), response=Ragged.of(rows))


def order(loader: Iterator | Loader) -> list[list[int]]:
    return [batch.index.tolist() for batch in loader]


sizes = {"n": st.integers(1, 60), "batch_size": st.integers(1, 20), "passes": st.integers(1, 3)}
keys = {"seed": st.integers(0, 2**32), "round": st.integers(0, 50)}


@given(**sizes, **keys)
def test_every_row_comes_once_a_pass_in_batches_of_almost_one_size(
    n: int, batch_size: int, passes: int, seed: int, round: int
) -> None:
    loader = Loader(table(n), batch_size=batch_size, seed=seed, round=round, passes=passes)
    given_ = order(loader)
    assert len(given_) == len(loader) == passes * batches(n, batch_size)
    for k in range(passes):
        of_pass = given_[k * batches(n, batch_size) : (k + 1) * batches(n, batch_size)]
        assert sorted(chain.from_iterable(of_pass)) == list(range(n))
        assert max(map(len, of_pass)) - min(map(len, of_pass)) <= 1


@given(**sizes, **keys)
def test_the_order_is_a_function_of_seed_and_round(n: int, batch_size: int, passes: int, seed: int, round: int) -> None:
    np.random.seed(seed % 1000)
    torch.manual_seed(seed)
    arguments = {"batch_size": batch_size, "seed": seed, "round": round, "passes": passes}
    assert order(Loader(table(n), **arguments)) == order(Loader(table(n), **arguments))


def test_seeds_rounds_and_passes_differ() -> None:
    orders = [
        [row for batch in order(Loader(table(50), batch_size=8, seed=seed, round=round)) for row in batch]
        for seed in (0, 1)
        for round in (0, 1)
    ]
    orders += np.array_split(
        [row for batch in order(Loader(table(50), batch_size=8, seed=2, round=0, passes=2)) for row in batch], 2
    )
    assert len({tuple(map(int, rows)) for rows in orders}) == 6


@given(**sizes, **keys, data=st.data())
def test_it_goes_on_in_the_middle(
    n: int, batch_size: int, passes: int, seed: int, round: int, data: st.DataObject
) -> None:
    arguments = {"batch_size": batch_size, "seed": seed, "round": round, "passes": passes}
    whole = order(Loader(table(n), **arguments))
    stopped = Loader(table(n), **arguments)
    iterator = iter(stopped)
    done = data.draw(st.integers(0, len(whole)))
    first = [next(iterator).index.tolist() for _ in range(done)]
    resumed = Loader(table(n), **arguments)
    resumed.load_state_dict(stopped.state_dict())
    assert first + order(resumed) == whole
    assert order(resumed) == whole, "the next time it starts from the beginning"


def test_batches_are_the_rows_of_the_table() -> None:
    numbers = table(11)
    for batch in Loader(numbers, batch_size=4, seed=0, round=0):
        assert isinstance(batch, Demonstrations)
        for row, length, tokens in zip(batch.index, batch.length[:, 0], batch.response[:, 0], strict=True):
            assert length == row % 4 + 1
            assert tokens[:length].tolist() == list(range(1, length + 1))
        assert batch.mean_length == pytest.approx(float(batch.length.float().mean()))


@given(n=st.integers(1, 40), batch_size=st.integers(1, 20))
def test_measuring_goes_through_the_rows_in_their_order(n: int, batch_size: int) -> None:
    assert list(chain(*order(sequential(table(n), batch_size)))) == list(range(n))
    picked = np.arange(n)[::-2].copy()
    assert list(chain(*order(sequential(table(n), batch_size, picked)))) == picked.tolist()


def test_rows_that_are_asked_for_are_gone_through_in_their_order_each_pass() -> None:
    rows = np.array([7, 2, 9, 4, 0])
    loader = Loader(table(12), batch_size=2, seed=0, round=3, passes=2, rows=rows)
    assert list(chain(*order(loader))) == [*rows, *rows]
    assert [len(batch) for batch in loader.plan] == [2, 2, 1] * 2
