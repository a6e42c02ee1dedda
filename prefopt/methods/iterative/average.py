"""The average policy of a game's rounds, which nears an equilibrium where the last policy may go round for ever."""

from typing import Any

import torch
from torch import Tensor, nn


class Average(nn.Module):
    """The mean of an exact world's policies, in buffers, which checkpoints hold."""

    total: Tensor
    rounds: Tensor

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros_like(policy.reference))
        self.register_buffer("rounds", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def add(self, policy: Any) -> None:
        self.total += policy.table().exp()
        self.rounds += 1

    def forward(self) -> Tensor:
        """[contexts, responses] log-probs in nats."""
        return (self.total / self.rounds).log()
