"""Any objective with any robustifier: refused when it is made, or finite losses of pairs whose order says nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn

from prefopt.batch import Groups, Pairs
from prefopt.config import CONF
from prefopt.errors import PrefoptError
from prefopt.methods.pairwise.base import Pairwise
from prefopt.table import Ragged, Table

T = 4


def parts(kind: str) -> dict[str, Path]:
    return {path.stem: path for path in sorted((CONF / "method" / kind).glob("*.yaml"))}


OBJECTIVES, ROBUST = parts("objective"), parts("robust")


def made(path: Path) -> Any:
    config = OmegaConf.create({"part": OmegaConf.load(path), "noise": {"assumed": 0.2}})
    return instantiate(OmegaConf.to_container(config, resolve=True)["part"])  # type: ignore[index, call-overload]


COUPLED = {"aot", "aot_unpaired", "kto"}


class Player(nn.Module):
    """Log-probs [B, 2, T] of a policy over e^2 tokens, looked up by the example's index."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)

    def logps(self, groups: Groups) -> Tensor:
        return self.values[groups.index] * groups.mask

    def collisions(self, groups: Groups) -> Tensor:
        return (2 * self.logps(groups).detach()).clamp(min=-2)


def product(objective: str, robust: str, batch: Pairs, values: Tensor) -> Pairwise:
    """The method with its roles, policy and reference of log-probs `values` [2, B, 2, T]."""
    method = Pairwise(objective=made(OBJECTIVES[objective]), robust=made(ROBUST[robust]))
    B = len(batch)
    data = Table(
        kind=Pairs,
        ids=np.arange(B).astype(str),
        prompt=Ragged.of([[1]] * B),
        response=Ragged.of([[1]] * (2 * B)),
        columns={"label": batch.label.numpy()},
        known={"annotator": np.arange(B) % 3, "group": np.arange(B) % 2, "margin": np.arange(B).astype(float)},
    )
    roles = {"policy": Player(values[0]), "reference": Player(values[1])}
    method.prepare(
        roles,
        optimizer=torch.optim.SGD,
        schedule=lambda _: 1.0,
        micro_batch_size=None,
        clip=None,
        seed=0,
        data=data,
    )
    return method


def batch_of(B: int, draw: torch.Generator) -> Pairs:
    length = torch.randint(1, T + 1, (B, 2), generator=draw)
    return Pairs(
        index=torch.arange(B),
        prompt=torch.ones(B, 1, dtype=torch.long),
        prompt_length=torch.ones(B, dtype=torch.long),
        response=torch.ones(B, 2, T, dtype=torch.long),
        length=length,
        mean_length=length.float().mean(),
        label=torch.randint(0, 2, (B,), generator=draw),
        annotator=torch.arange(B) % 3,
        group=torch.arange(B) % 2,
        margin=torch.arange(B).double(),
    )


@pytest.mark.parametrize("robust", ROBUST)
@pytest.mark.parametrize("objective", OBJECTIVES)
@settings(max_examples=4)
@given(
    B=st.integers(1, 6),
    size=st.sampled_from([1e-3, 1.0, 30.0, 1e4]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    seed=st.integers(0, 999),
)
def test_a_product_is_refused_or_sound(
    objective: str, robust: str, B: int, size: float, dtype: torch.dtype, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    batch = batch_of(B, draw)
    values = (-size / T * torch.rand(2, B, 2, T, generator=draw, dtype=torch.float64)).to(dtype)
    if objective in COUPLED and made(ROBUST[robust]).weighs:
        with pytest.raises(PrefoptError, match=f"weighs pairs one by one, and method.objective={objective} "):
            product(objective, robust, batch, values)
        return
    method = product(objective, robust, batch, values)
    losses, metrics = method.loss(batch)
    assert losses.shape == (B,)
    assert losses.isfinite().all()
    (gradient,) = torch.autograd.grad(losses.sum(), method.policy.values)
    assert gradient.isfinite().all()
    assert all(value.isfinite().all() for value in metrics.values())
    if dtype is torch.float64:
        order = torch.randperm(B, generator=draw)
        torch.testing.assert_close(method.loss(batch.pick(order))[0], losses[order])
    weights = method.weigh(batch)
    assert weights is None or bool(((weights >= 0) & (weights <= 1)).all())
