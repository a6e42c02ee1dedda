"""The processes of a run as Lightning sees them: started by others, one a device, never by Lightning itself."""

import os
from collections.abc import Mapping
from typing import Any

from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy

from prefopt import ranks
from prefopt.errors import PrefoptError
from prefopt.loop.sharded import Sharded
from prefopt.methods.base import Method

STRATEGIES = ("auto", "ddp", "fsdp")


def check_processes(trainer: Mapping[str, Any], method: Method, world: str) -> None:
    """Raise PrefoptError where the processes that were started are not those that the trainer asks for, or where they
    cannot share the work. world: `text` or `exact`."""
    strategy, nodes, each = trainer["strategy"], trainer["num_nodes"], trainer["devices"]
    if strategy not in STRATEGIES:
        raise PrefoptError(f"trainer.strategy={strategy} is not known", f"choose one of {', '.join(STRATEGIES)}")
    if nodes * each != ranks.world():
        raise PrefoptError(
            f"trainer.num_nodes={nodes} x trainer.devices={each} are {nodes * each} processes, "
            f"and {ranks.world()} were started",
            f"start one a device (torchrun --nnodes={nodes} --nproc-per-node={each} -m prefopt.train trainer=ddp ..., "
            f"or hydra/launcher=slurm hydra.launcher.nodes={nodes} hydra.launcher.tasks_per_node={each}), "
            "or set trainer.num_nodes and trainer.devices to what was started",
        )
    if strategy == "auto" and ranks.world() > 1:
        raise PrefoptError(
            f"trainer.strategy=auto is for one process, and {ranks.world()} were started", "use trainer=ddp"
        )
    if method.coupled and method.trains and ranks.world() > 1:
        raise PrefoptError(
            f"{type(method).__name__} couples the examples of a batch, which {ranks.world()} processes cannot share",
            "train it in one process (trainer=auto)",
        )
    if strategy == "fsdp" and method.whole_laws:
        raise PrefoptError(
            f"{type(method).__name__} reads hidden states and whole laws, which trainer.strategy=fsdp does not gather",
            "use trainer=ddp, with adapters where the model is large",
        )
    if strategy == "fsdp" and world == "exact":
        raise PrefoptError("trainer.strategy=fsdp has nothing to shard on an exact world", "use trainer=ddp")


def strategy_of(name: str) -> Strategy | str:
    """Lightning's strategy of this name in the configuration; one process needs none."""
    if ranks.world() == 1:
        return "auto"
    return DDPStrategy(broadcast_buffers=False) if name == "ddp" else Sharded()


class Started(ClusterEnvironment):
    """What `ranks` knows, for Lightning."""

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        return int(os.environ["MASTER_PORT"])

    @staticmethod
    def detect() -> bool:
        return True

    def world_size(self) -> int:
        return ranks.world()

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return ranks.place().rank

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return ranks.place().local

    def node_rank(self) -> int:
        return ranks.place().node
