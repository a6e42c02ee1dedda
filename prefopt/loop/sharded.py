"""Fully sharded training (FSDP2): every process holds a part of the trained weights and of the optimiser's state."""

import copy
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import lightning.pytorch as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from prefopt import ranks
from prefopt.errors import PrefoptError
from prefopt.methods.base import Method

COMPUTING = ("logps", "collisions", "score", "sample")
"""The calls of a role for which its weights have to be whole."""
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)


class Sharded(ModelParallelStrategy):
    """Shards the roles that a method trains; checkpoints hold whole weights, as those of every other strategy do."""

    def __init__(self) -> None:
        super().__init__(data_parallel_size=ranks.world(), tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup(self, trainer: L.Trainer) -> None:
        method, accelerator = self.model, self.accelerator
        assert isinstance(method, Method) and accelerator is not None
        check_roles_alone(method)
        accelerator.setup(trainer)
        self.model_to_device()
        for role in method.trains:
            shard(getattr(method, role), self.device_mesh["data_parallel"])
        self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return get_optimizer_state_dict(self.model, getattr(optimizer, "_optimizer", optimizer), options=WHOLE)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        checkpoint = self.checkpoint_io.load_checkpoint(Path(checkpoint_path))
        set_model_state_dict(self.model, checkpoint["state_dict"], options=WHOLE)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            set_optimizer_state_dict(self.model, optimizer, state, options=WHOLE)
        return checkpoint


def check_roles_alone(method: Method) -> None:
    """Raise PrefoptError where weights beside the method's roles are trained: nothing would share their gradients."""
    roles = tuple(f"{role}." for role in method.trains)
    beside = [name for name, p in method.named_parameters() if p.requires_grad and not name.startswith(roles)]
    if beside:
        raise PrefoptError(
            f"{type(method).__name__} trains {beside[0]} beside its roles, which trainer.strategy=fsdp does not share",
            "use trainer=ddp, with adapters where the model is large",
        )


def shard(role: nn.Module, mesh: Any) -> None:
    """Shard each block of a transformer by itself, and what is left of the role together."""
    blocks = {name for module in role.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="cpu"), p.requires_grad) for p in role.parameters()}
    _unsharded[role] = copy.deepcopy(role, empty)
    for module in role.modules():
        if type(module).__name__ in blocks:
            fully_shard(module, mesh=mesh)
    fully_shard(role, mesh=mesh)
    for call in COMPUTING:
        if hasattr(role, call):
            register_fsdp_forward_method(role, call)


_unsharded: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()
"""What each sharded role was, with room on the CPU for the weights that it will have."""


def whole(role: Any) -> Any:
    """A role that can be exported: itself, or where it is in shards, for the first process, a copy on the CPU.

    All processes have to call this.
    """
    if not isinstance(role, FSDPModule):
        return role
    model: Any = role
    weights, copied = get_model_state_dict(model, options=WHOLE), _unsharded[model]
    if ranks.first():
        copied.load_state_dict(weights)
    return copied.cpu()
