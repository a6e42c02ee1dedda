"""What several processes cannot do together is said by all of them, and none is left waiting."""

from typing import Any

import pytest
import torch

from prefopt.errors import PrefoptError
from prefopt.loop.processes import check_processes
from prefopt.loop.sharded import check_roles_alone
from prefopt.methods.base import Method

TRAINER = {"strategy": "ddp", "devices": 2, "num_nodes": 1}
TWO = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
BANDIT = (
    *("dataset=bandit", "model=log_linear", "method=rdpo", "rounds=2", "tracking=none"),
    *("trainer=ddp", "trainer.accelerator=cpu", "evaluation.figures=false"),
)


class Coupled(Method):
    coupled = True


@pytest.mark.parametrize(
    ("environment", "trainer", "method", "world", "what", "mend"),
    [
        (TWO, {"num_nodes": 2}, Method, "text", "are 4 processes, and 2 were started", "torchrun --nnodes=2"),
        ({}, {}, Method, "text", "are 2 processes, and 1 were started", "hydra.launcher.tasks_per_node=2"),
        (TWO, {"strategy": "auto"}, Method, "text", "strategy=auto is for one process", "trainer=ddp"),
        (TWO, {"strategy": "deepspeed"}, Method, "text", "strategy=deepspeed is not known", "auto, ddp, fsdp"),
        (TWO, {}, Coupled, "exact", "Coupled couples the examples of a batch", "trainer=auto"),
        (TWO, {"strategy": "fsdp"}, Method, "exact", "nothing to shard", "trainer=ddp"),
    ],
)
def test_a_combination_that_cannot_work_is_refused(
    environment: Any, trainer: Any, method: type[Method], world: str, what: str, mend: str, started: Any
) -> None:
    started(**environment)
    with pytest.raises(PrefoptError) as error:
        check_processes(TRAINER | trainer, method(), world)
    assert what in error.value.what and mend in error.value.mend


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_what_can_work_is_not_refused(strategy: str, started: Any) -> None:
    started(**TWO)
    check_processes(TRAINER | {"strategy": strategy}, Method(), "text")
    started()
    check_processes({"strategy": "auto", "devices": 1, "num_nodes": 1}, Coupled(), "exact")


def test_weights_beside_the_roles_are_not_for_shards() -> None:
    method = Method()
    method.policy = torch.nn.Linear(1, 1)
    method.frozen = torch.nn.Linear(1, 1).requires_grad_(False)
    check_roles_alone(method)
    method.heads = torch.nn.ModuleList([torch.nn.Linear(1, 1)])
    with pytest.raises(PrefoptError, match=r"Method trains heads\.0\.weight beside its roles"):
        check_roles_alone(method)


def test_a_batch_of_fewer_examples_than_processes_is_refused(processes: Any, tmp_path: Any) -> None:
    sizes = ("dataset.pairs=9", "dataset.test_pairs=4", "batch_size=2", "trainer.devices=3")
    ended = processes.run([*BANDIT, *sizes], tmp_path, 3)
    assert ended.codes == [2, 2, 2], ended.said
    assert all("3 processes cannot share a batch of 1" in said for said in ended.said)


def test_a_run_that_diverges_ends_in_all_processes(processes: Any, tmp_path: Any) -> None:
    sizes = ("dataset.pairs=24", "dataset.test_pairs=4", "batch_size=6", "optimizer.lr=1e308")
    ended = processes.run([*BANDIT, *sizes], tmp_path, 2)
    assert ended.codes == [3, 3], ended.said
    assert [path.name for path in tmp_path.rglob("bad_batch*")] == ["bad_batch.safetensors"]
