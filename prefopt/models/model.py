"""What a model is to a run: something that makes a policy and a reward model, fresh or from a stored run."""

from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from prefopt.batch import Groups
from prefopt.datasets.data import Data, Preferring
from prefopt.models.ensemble import Shared
from prefopt.models.preference import Form
from prefopt.models.scorer import Scorer


class Policy(Protocol):
    """Whatever can score a group and sample a response. Policies are `nn.Module`s."""

    def logps(self, groups: Groups) -> Tensor:
        """[B, n, T] log pi(token | prompt, response so far) in nats, zero outside the response."""
        ...

    def collisions(self, groups: Groups) -> Tensor:
        """[B, n, T] log sum_v pi(v | prompt, response so far)^2 in nats, zero outside the response, without a
        gradient."""
        ...

    def sample(self, prompts: Groups, n: int, generator: torch.Generator | None = None) -> Groups:
        """n responses to each prompt, drawn at temperature 1."""
        ...

    def finished(self, groups: Groups) -> Tensor:
        """[B, n] whether a response that it sampled ended by itself."""
        ...

    def critic(self) -> nn.Module:
        """A new module that gives [B, n, T] values of the states that tokens are drawn in; all 0 at first."""
        ...

    def export(self, folder: Path) -> None:
        """Write what opens again by itself."""
        ...

    @property
    def form(self) -> dict[str, Any]:
        """What its log-probs depend on beside its weights and buffers, as plain containers."""
        ...


class Model(Protocol):
    """A node of conf/model."""

    world: ClassVar[str]
    """`text` or `exact`: the kind of dataset that it runs on."""

    def tokenizer(self, dataset: Any, start: Path | None) -> Any:
        """The tokenizer, from the run that this one starts from or made; None on exact worlds."""
        ...

    def policy(self, data: Data, tokenizer: Any, start: Path | None) -> Any:
        """A policy to train, from the folder of a stored one or new."""
        ...

    def reward(self, data: Data, tokenizer: Any, start: Path | None, form: Form | Shared | None = None) -> Any:
        """A reward model to train, from the folder of a stored policy or reward model or new; a preference model where
        `form` says so, or where `start` holds one."""
        ...

    def checksum(self) -> str:
        """Hash of the weights that it starts from, where they are files."""
        ...


class GoldOfGroup(nn.Module, Scorer):
    """What one group of a world with several wants, as a scorer."""

    def __init__(self, world: Any, group: int) -> None:
        super().__init__()
        self.world, self.group = world, group

    def score(self, groups: Groups) -> Tensor:
        rewards: Tensor = self.world.group_reward(groups)[self.group]
        return rewards


class Gold(Scorer):
    """The world's own reward as a scorer, and its own preferences where it has such, with no reward behind them."""

    def __init__(self, data: Data) -> None:
        self.world = data.world

    def score(self, groups: Groups) -> Tensor:
        assert self.world is not None
        return self.world.reward(groups)

    def table(self, groups: Groups) -> Tensor:
        if not isinstance(self.world, Preferring):
            return super().table(groups)
        return self.world.log_odds(groups)
