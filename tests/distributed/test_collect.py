"""All processes learn from the samples of the first one: those of two GPUs may differ."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from prefopt import ranks
from prefopt.batch import Demonstrations
from prefopt.loop.rounds import Rounds
from prefopt.table import Ragged, Table


def table(n: int) -> Table:
    rows = Ragged.of([[1]] * n)
    return Table(kind=Demonstrations, ids=np.arange(n).astype(str), prompt=rows, response=rows)


@pytest.mark.parametrize("sampled", [True, False])
def test_what_the_first_one_sampled_is_what_all_learn_from(sampled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    data, own, firsts = table(5), table(6), table(7)
    monkeypatch.setattr(ranks, "agreed", lambda decide: firsts)
    method: Any = SimpleNamespace(
        collect=lambda data, round: own if sampled else data, passes=1, coupled=False, rows=None
    )
    source = Rounds(method, data, batch_size=2, seed=0)
    progress = SimpleNamespace(epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=0)))
    precision = SimpleNamespace(forward_context=nullcontext)
    source.trainer = SimpleNamespace(max_epochs=1, fit_loop=progress, precision_plugin=precision)  # type: ignore
    assert source.train_dataloader().table is (firsts if sampled else data)
