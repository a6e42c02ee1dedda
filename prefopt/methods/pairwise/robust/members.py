"""Numbers that a robustifier keeps for each annotator or group, and one more for pairs of which it is not known."""

import numpy as np
import torch
from torch import Tensor

from prefopt.members import names
from prefopt.table import Table


def counted(data: Table, column: str) -> Tensor:
    """[K + 1] pairs of each member, and of none."""
    codes = np.asarray(data.known.get(column, np.full(len(data), -1)))
    known = len(names(data, column))
    return torch.from_numpy(np.bincount(np.where(codes < 0, known, codes), minlength=known + 1))


def places(codes: Tensor | None, like: Tensor, of: Tensor) -> Tensor:
    """[B] where in `of` [K + 1] the numbers of the pairs `like` [B] stand: by code, last where that is unknown."""
    unknown = len(of) - 1
    if codes is None:
        return torch.full(like.shape, unknown, dtype=torch.long, device=like.device)
    return torch.where((codes >= 0) & (codes < unknown), codes, unknown)


def sums(values: Tensor, place: Tensor, of: Tensor) -> Tensor:
    """[K + 1] sums of `values` [B] by place."""
    return torch.zeros_like(of).index_add(0, place, values.detach().to(of.dtype))
