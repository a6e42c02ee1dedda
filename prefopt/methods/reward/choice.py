"""Reward models that learn which of K responses was chosen; a pair is such a choice, with K = 2."""

import torch
from torch import Tensor

from prefopt.batch import Choices, Groups
from prefopt.errors import PrefoptError
from prefopt.methods.base import Method
from prefopt.methods.metrics import Metrics


class Choice(Method):
    """Learns a reward from choices; acts not at all."""

    eats = Choices
    roles = ("reward",)
    trains = ("reward",)

    def act(self, prompts: Groups, n: int = 1, generator: torch.Generator | None = None) -> Groups:
        raise PrefoptError("a reward model answers nothing", "use it as the reward of method=best_of_n")

    def score(self, groups: Groups) -> Tensor:
        return self.reward.score(groups)


def chosen(f: Tensor, label: Tensor) -> Tensor:
    """What belongs to the recorded choice: [B, K] and [B] to [B]."""
    return f.gather(1, label[:, None])[:, 0]


def rivals(f: Tensor, label: Tensor) -> Tensor:
    """[B, K] true on all but the recorded choice."""
    return torch.arange(f.shape[1], device=f.device) != label[:, None]


def reported(f: Tensor, label: Tensor) -> Metrics:
    """Rewards [B] of what was chosen and of its strongest rival, from scores [B, K]."""
    f = f.detach()
    winner, rival = chosen(f, label), f.where(rivals(f, label), -torch.inf).amax(1)
    return {
        "rewards/chosen": winner,
        "rewards/rejected": rival,
        "rewards/margins": winner - rival,
        "rewards/accuracies": (winner > rival).float(),
    }
