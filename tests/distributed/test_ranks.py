"""Who a process is by what it was started with, and which part of a batch is its own."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prefopt import ranks
from prefopt.batch import Demonstrations
from prefopt.engine.loader import Loader
from prefopt.errors import Diverged, PrefoptError
from prefopt.ranks import Place
from prefopt.table import Ragged, Table

STEP = {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}
TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "GROUP_RANK": "2"}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, Place(rank=0, world=1, local=0, node=0)),
        (TORCHRUN, Place(rank=5, world=8, local=1, node=2)),
        (STEP | {"SLURM_STEP_NUM_TASKS": "4"}, Place(rank=3, world=4, local=1, node=1)),
        (STEP | {"SLURM_PROCID": "0"}, Place(rank=0, world=1, local=0, node=0)),  # a batch script, or a shell in a job
        (STEP | {"SLURM_STEP_NUM_TASKS": "1"}, Place(rank=0, world=1, local=0, node=0)),
        (STEP | {"SLURM_STEP_NUM_TASKS": "4"} | TORCHRUN, Place(rank=5, world=8, local=1, node=2)),
    ],
)
def test_a_process_knows_its_place(environment: Any, place: Place, started: Any) -> None:
    started(**environment)
    assert ranks.place() == place


def test_a_plain_process_agrees_with_itself(started: Any) -> None:
    started()
    assert ranks.first() and ranks.world() == 1
    assert ranks.agreed(lambda: 3) == 3
    assert ranks.gathered("mine") == ["mine"]
    assert ranks.anyone(True, False) == (True, False)
    with pytest.raises(Diverged, match="nan"):
        ranks.agreed(lambda: (_ for _ in ()).throw(Diverged("nan", "mend")))


def test_an_error_keeps_its_kind_and_mend_on_its_way_to_another_process() -> None:
    import pickle

    error: PrefoptError = pickle.loads(pickle.dumps(Diverged("it broke", "mend it")))
    assert type(error) is Diverged and (error.what, error.mend) == ("it broke", "mend it")


@given(n=st.integers(1, 60), batch_size=st.integers(1, 20), world=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_the_parts_of_a_batch_are_the_batch(n: int, batch_size: int, world: int, seed: int) -> None:
    rows = [list(range(1, length + 1)) for length in np.arange(n) % 7 + 1]
    table = Table(kind=Demonstrations, ids=np.arange(n).astype(str), prompt=Ragged.of(rows), response=Ragged.of(rows))
    for plan in Loader(table, batch_size=batch_size, seed=seed, round=0).plan:
        assume(len(plan) >= world)
        batch, parts = table.batch(plan), [table.batch(plan, rank, world) for rank in range(world)]
        assert sorted(row for part in parts for row in part.index.tolist()) == sorted(plan.tolist())
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert all(part.mean_length == batch.mean_length for part in parts)
        assert batch.weight == 1
        # the mean over processes of weighted means is the mean over the batch
        means = [part.length.double().mean() * part.weight for part in parts]
        assert float(sum(means)) / world == pytest.approx(float(batch.length.double().mean()), rel=1e-12)
