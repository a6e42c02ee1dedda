"""Which process of a run this is, and how its processes agree; a plain process is the first of one.

Whoever starts several (torchrun, or srun through the launcher) says so in the environment. They find each other when
they first have to agree.
"""

import atexit
import os
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple, TypeVar

from prefopt.errors import PrefoptError

T = TypeVar("T")
COMPUTING = timedelta(minutes=30)
"""The longest that a process waits for the others' gradients: a process that hangs is found."""
WAITING = timedelta(days=14)
"""The longest that it waits for what they say: the first one may wait for another run's lock meanwhile."""


class Place(NamedTuple):
    """This process among `world`; `local` counts on its node, and `node` counts nodes."""

    rank: int
    world: int
    local: int
    node: int


@cache
def place() -> Place:
    """From torchrun's variables, else from those of a SLURM step of several tasks."""
    said = os.environ
    if {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= said.keys():
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK")
    elif int(said.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # a batch script has SLURM_NTASKS too, but is one process
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NODEID")
    else:
        return Place(0, 1, 0, 0)
    return Place(*(int(said.get(name, 0)) for name in names))


def world() -> int:
    """How many processes work on this run together."""
    return place().world


def first() -> bool:
    """Whether this is the process that speaks and writes for all."""
    return place().rank == 0


def agreed(decide: Callable[[], T]) -> T:
    """What the first process decides; the others do not decide. Where it raises a PrefoptError, all do."""
    if world() == 1:
        return decide()
    from torch.distributed import broadcast_object_list

    said: list[Any] = [None, None]
    if first():
        try:
            said[0] = decide()
        except PrefoptError as error:
            said[1] = error
    broadcast_object_list(said, group=_all())
    if said[1] is not None:
        raise said[1]
    return said[0]


def gathered(value: T) -> list[T]:
    """Every process's value, in the order of ranks."""
    if world() == 1:
        return [value]
    from torch.distributed import all_gather_object

    values: list[Any] = [None] * world()
    all_gather_object(values, value, group=_all())
    return values


def anyone(*flags: bool) -> tuple[bool, ...]:
    """For each flag, whether it is set in any process."""
    if world() == 1:
        return flags
    import torch

    votes = torch.tensor(flags, dtype=torch.uint8)
    torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MAX, group=_all())
    return tuple(bool(vote) for vote in votes)


def mean(tensor: Any) -> Any:
    """The mean of the processes' tensors, on the device where they are."""
    if world() == 1:
        return tensor
    import torch

    total = tensor.clone()
    torch.distributed.all_reduce(total)
    return total / world()


def meet() -> None:
    """Go on when all processes are here, and what they wrote before can be read."""
    if world() > 1:
        import torch

        torch.distributed.barrier(group=_all())


@cache
def _all() -> Any:
    """The group of all processes, on CPU; the default group, for gradients, also speaks NCCL where there are GPUs."""
    import torch
    from torch import distributed

    here = place()
    os.environ.setdefault("MASTER_ADDR", _first_host())
    os.environ.setdefault("MASTER_PORT", str(_port()))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, rank=here.rank, world_size=here.world, timeout=COMPUTING)
    atexit.register(distributed.destroy_process_group)
    return distributed.new_group(backend="gloo", timeout=WAITING)


def _first_host() -> str:
    from lightning.fabric.plugins.environments import SLURMEnvironment

    return SLURMEnvironment.resolve_root_node_address(os.environ.get("SLURM_STEP_NODELIST", "127.0.0.1"))


def _port() -> int:
    """The same in all processes of a SLURM step, and most likely free."""
    job, step = (int(os.environ.get(name, 0)) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return 15000 + (31 * job + step) % 10000
