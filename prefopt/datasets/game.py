"""A preference game: which of two answers is liked better, without a reward behind it, so that likes may go round."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from prefopt.batch import Contexts, Groups, Pairs, Prompts, Revised
from prefopt.datasets.data import Data, Split
from prefopt.datasets.exact import ExactWorld, apportioned, labelled
from prefopt.errors import PrefoptError
from prefopt.store import digest

CERTAIN = 1e-6


class GameWorld(ExactWorld):
    """C contexts x R responses, and for each context and response one more context, which asks for a revision of it.

    preferences: [C, R, R] p(y > y'). odds: its log-odds, where it is certain those of 1 - `CERTAIN`.
    rewards: [C, R] the chance to be preferred to an answer of the reference.
    reference: [C (1 + R), R] its log-probs, alike in all; context C + c R + y asks for a revision of y in context c.
    features: [C (1 + R), R, 1], nothing to generalise by.
    """

    temperature = 1.0

    def __init__(self, preferences: np.ndarray, reference: np.ndarray | None = None) -> None:
        self.preferences = torch.from_numpy(preferences)
        contexts, responses, _ = preferences.shape
        law = torch.from_numpy(np.full(responses, 1 / responses) if reference is None else reference)
        self.odds = self.preferences.logit(CERTAIN)
        self.rewards = self.preferences @ law
        self.reference = law.log().repeat(contexts * (1 + responses), 1)
        self.features = torch.zeros(*self.reference.shape, 1, dtype=torch.float64)

    def log_odds(self, groups: Groups) -> Tensor:
        """[B, n, n] that y_i is preferred to y_j."""
        y = groups.response[..., 0]
        return self.odds.to(y.device)[groups.prompt[:, :1, None], y[:, :, None], y[:, None, :]]


class Game:
    """conf/dataset/game.yaml: pairs of different answers y, y' ~ mu, y preferred with probability p(y > y').

    The pairs are a whole population: each (winner, loser) comes as often as it is likely, to the nearest pair, so that
    nothing is left to chance.

    Args:
        preferences: p(y > y') as rows, of one context; None: drawn from `seed`, in steps of 1/20.
        mu: how often each answer comes up in a pair; None: all alike.
        reference: the law that it answers by; None: all alike. "drawn": from `seed`, all laws alike.
        responses, contexts: of a game that is drawn.
        pairs, test_pairs: of the population, over all contexts.

    Raises PrefoptError where `preferences` is no preference, or `mu` or `reference` no law over its answers.
    """

    world: ClassVar[str] = "exact"
    has_gold: ClassVar[bool] = True
    gives: ClassVar[frozenset[type[Groups]]] = frozenset({Pairs, Prompts, Contexts, Revised})

    def __init__(
        self,
        *,
        preferences: Sequence[Sequence[float]] | None = None,
        mu: Sequence[float] | None = None,
        reference: Sequence[float] | Literal["drawn"] | None = None,
        responses: int = 5,
        contexts: int = 1,
        pairs: int = 1000,
        test_pairs: int = 100,
        seed: int = 0,
    ) -> None:
        drawn = self._drawn(contexts, responses, seed) if preferences is None else np.array([preferences], float)
        answers = drawn.shape[-1]
        square = drawn.ndim == 3 and drawn.shape[1] == answers
        if not square or (drawn < 0).any() or not np.allclose(drawn + drawn.transpose(0, 2, 1), 1):
            raise PrefoptError(
                f"dataset.preferences={preferences} is no preference: p(y > y') + p(y' > y) must be 1, neither below 0",
                "give as many rows as columns, with 0.5 on the diagonal",
            )
        law = np.full(answers, 1 / answers) if mu is None else np.array(mu, float)
        if law.shape != (answers,) or (law < 0).any() or not np.isclose(law.sum(), 1) or np.count_nonzero(law) < 2:
            raise PrefoptError(
                f"dataset.mu={mu} is no law over {answers} answers that makes pairs of them",
                f"give {answers} shares that add up to 1, two of them above 0",
            )
        first = self._reference(reference, answers, seed)
        if first.shape != (answers,) or not (first > 0).all() or not np.isclose(first.sum(), 1):
            raise PrefoptError(
                f"dataset.reference={reference} is no law over {answers} answers that gives each of them",
                f"give {answers} shares above 0 that add up to 1, null or drawn",
            )
        self.preferences, self.mu, self.reference, self.seed = drawn, law, first, seed
        self.sizes = {"train": pairs, "test": test_pairs}

    def load(self, tokenizer: None = None) -> Data:
        world = GameWorld(self.preferences, self.reference)
        train, test = (self._split(world, name, size) for name, size in self.sizes.items())
        counts = {f"{name}/used": len(split.pairs) for name, split in (("train", train), ("test", test))}
        return Data(train, test, world=world, counts=counts)

    def checksum(self) -> str:
        return digest([self.preferences.tolist(), self.mu.tolist(), self.reference.tolist(), self.sizes, self.seed])

    def _split(self, world: GameWorld, name: str, size: int) -> Split:
        met = self.mu[:, None] * self.mu * (1 - np.eye(len(self.mu)))
        likely = (self.preferences * met).ravel()
        context, winner, loser = np.unravel_index(apportioned(likely / likely.sum(), size), self.preferences.shape)
        return labelled(world, f"game-{self.seed}-{name}", context, winner, loser)

    @staticmethod
    def _reference(given: Sequence[float] | Literal["drawn"] | None, answers: int, seed: int) -> np.ndarray:
        if given == "drawn":
            return np.random.default_rng([seed, 4]).dirichlet(np.ones(answers))
        return np.full(answers, 1 / answers) if given is None else np.array(given, float)

    @staticmethod
    def _drawn(contexts: int, responses: int, seed: int) -> np.ndarray:
        above = np.random.default_rng([seed, 3]).integers(1, 20, (contexts, responses, responses)) / 20
        upper = np.triu(above, 1)
        return upper + np.tril(1 - upper.transpose(0, 2, 1), -1) + np.eye(responses) / 2
