"""Numbers that a robustifier keeps for each annotator or group, and one more for pairs of which it is not known."""

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from prefopt.table import Table

SHOWN = 16
"""Members at most whose numbers are logged one by one."""


def names(data: Table, column: str) -> list[str]:
    """The names of the annotators or groups behind the codes 0, 1, ...; none where the data do not have them."""
    if column not in data.known:
        return []
    codes, said = data.known[column], data.known.get(f"{column}_name", data.known[column])
    found, first = np.unique(codes, return_index=True)
    called = {int(code): str(said[row]) for code, row in zip(found, first, strict=True) if code >= 0}
    return [called.get(code, str(code)) for code in range(max(called, default=-1) + 1)]


def metric_names(members: Sequence[str]) -> list[str]:
    """What the first SHOWN members are called in names of metrics: in letters, digits, blanks, _ and -, each unlike the
    others."""
    safe = [re.sub(r"[^\w -]", "_", name) for name in members[:SHOWN]]
    return [name if safe.count(name) == 1 else f"{name}_{code}" for code, name in enumerate(safe)]


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
