"""The temperature of each training example, which LDR's adaptive loss remembers from visit to visit."""

import torch
from torch import Tensor

from prefopt import ranks
from prefopt.methods.memory import Memory
from prefopt.table import Table


class Temperature(Memory):
    """lam: [N + 1] by row of the training table, `start` before the first visit; the last is that of any other row."""

    lam: Tensor
    noted: Tensor

    def __init__(self, *, start: float) -> None:
        super().__init__()
        self.start = start
        self._size(0)

    def begin(self, data: Table) -> None:
        self._size(len(data))

    def _size(self, examples: int) -> None:
        self.register_buffer("lam", torch.full((examples + 1,), self.start, dtype=torch.float64))
        self.clear()

    def of(self, index: Tensor) -> Tensor:
        """[B]"""
        return self.lam[self._place(index)]

    def note(self, index: Tensor, lam: Tensor) -> None:
        """[B] row and new temperature of each example of a batch, or of a part of it."""
        place, nought = self._place(index), torch.zeros_like(self.lam)
        sums = [nought.index_add(0, place, x.to(self.lam.dtype)) for x in (lam, torch.ones_like(lam))]
        self.noted = self.noted + torch.stack(sums)

    def _place(self, index: Tensor) -> Tensor:
        return index.clamp(max=len(self.lam) - 1)

    def clear(self) -> None:
        self.noted = self.lam.new_zeros(2, len(self.lam))

    def learn(self) -> None:
        lam, visits = ranks.mean(self.noted)
        known = torch.arange(len(self.lam), device=self.lam.device) < len(self.lam) - 1
        self.lam = torch.where(known & (visits > 0), lam / visits.clamp(min=1e-9), self.lam)
