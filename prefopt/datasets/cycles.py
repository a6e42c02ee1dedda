"""Answers of three kinds whose likes go round, in contexts that nobody has seen: features alone tell the kind."""

from typing import ClassVar

import numpy as np
import torch

from prefopt.batch import Contexts, Groups, Pairs, Prompts
from prefopt.datasets.data import Data, Split
from prefopt.datasets.exact import labelled
from prefopt.datasets.game import GameWorld
from prefopt.errors import PrefoptError
from prefopt.store import digest

KINDS = 3


class CyclesWorld(GameWorld):
    """C contexts, each with one answer of each kind in an order of its own; 0 is preferred to 1, 1 to 2, and 2 to 0.

    features: [C, 3, d] N(0, I), the same for all answers of a kind, and the answer's own N(0, noise^2).
    reference: [C, 3] uniform; no context asks for a revision.
    """

    def __init__(self, *, contexts: int, dimension: int, noise: float, seed: int) -> None:
        draws = np.random.default_rng([seed, 0])
        kinds = draws.permuted(np.tile(np.arange(KINDS), (contexts, 1)), axis=1)
        after = (kinds[:, None, :] - kinds[:, :, None]) % KINDS
        super().__init__(np.array([0.5, 1.0, 0.0])[after])
        prototypes = draws.standard_normal((KINDS, dimension))
        own = noise * draws.standard_normal((contexts, KINDS, dimension))
        self.features = torch.from_numpy(prototypes[kinds] + own)
        self.reference = self.reference[:contexts]


class Cycles:
    """conf/dataset/cycles.yaml: all three pairs of every context, each with its true label.

    Args:
        contexts, test_contexts: of training pairs, and others of held-out pairs. dimension: d of the features.
        noise: standard deviation of an answer's features around those of its kind. seed: of the world.
    """

    world: ClassVar[str] = "exact"
    has_gold: ClassVar[bool] = True
    gives: ClassVar[frozenset[type[Groups]]] = frozenset({Pairs, Prompts, Contexts})

    def __init__(
        self,
        *,
        contexts: int = 600,
        test_contexts: int = 300,
        dimension: int = 12,
        noise: float = 0.5,
        seed: int = 0,
    ) -> None:
        for key, value in (("contexts", contexts), ("test_contexts", test_contexts), ("dimension", dimension)):
            if value < 1:
                raise PrefoptError(f"dataset.{key}={value} is too few", "give at least 1")
        self.contexts, self.test_contexts = contexts, test_contexts
        self.dimension, self.noise, self.seed = dimension, noise, seed

    def load(self, tokenizer: None = None) -> Data:
        contexts = self.contexts + self.test_contexts
        world = CyclesWorld(contexts=contexts, dimension=self.dimension, noise=self.noise, seed=self.seed)
        train = self._split(world, "train", np.arange(self.contexts))
        test = self._split(world, "test", np.arange(self.contexts, contexts))
        counts = {f"{name}/used": len(split.pairs) for name, split in (("train", train), ("test", test))}
        return Data(train, test, world=world, counts=counts)

    def checksum(self) -> str:
        return digest([self.contexts, self.test_contexts, self.dimension, self.noise, self.seed])

    def _split(self, world: CyclesWorld, name: str, contexts: np.ndarray) -> Split:
        place, winner, loser = np.nonzero(world.preferences.numpy()[contexts] > 0.5)
        return labelled(world, f"cycles-{self.seed}-{name}", contexts[place], winner, loser)
