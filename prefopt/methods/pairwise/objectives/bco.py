"""Binary classifier optimisation (Jung et al., 2024, arXiv 2404.04656).

    L = -log sigmoid(c - delta) - log sigmoid(delta - r),   delta = mean of all c and r seen in training so far

c and r: implied rewards beta log pi/ref of winner and loser, log-probs summed over tokens. A classifier of single
responses into good and bad; delta, the reward shift, starts at 0 and is of the batches before this one, so that
micro-batches agree. The paper has beta 0.01.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefopt import ranks
from prefopt.methods.metrics import Metrics
from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.pair import Pair


class BCO(DPO):
    """Args: beta as in DPO."""

    delta: Tensor
    seen: Tensor

    def __init__(self, *, beta: float = 0.1) -> None:
        super().__init__(beta=beta)
        self.register_buffer("delta", torch.zeros((), dtype=torch.float64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))
        self.clear()

    def preference(self, pair: Pair) -> Tensor:
        c, r = self.rewards(pair)
        if self.training:
            self._rewards.append(torch.cat([c, r]).detach().double())
        return -logsigmoid(c - self.delta) - logsigmoid(self.delta - r)

    def clear(self) -> None:
        self._rewards: list[Tensor] = []

    def learn(self) -> None:
        rewards = torch.cat(self._rewards)
        parts = ranks.gathered((float(rewards.sum()), len(rewards)))
        total, count = (sum(values) for values in zip(*parts, strict=True))
        self.seen += count
        self.delta += (total - count * self.delta) / self.seen

    def facts(self) -> Metrics:
        return {"rewards/shift": self.delta.clone()}
