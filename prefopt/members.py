"""The names of annotators and groups, of whom a table has codes."""

import re
from collections.abc import Sequence

import numpy as np

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
