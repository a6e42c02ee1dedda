"""Contexts x responses with log-linear rewards: a world in which every answer is known by enumeration."""

from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import expit

from prefopt.batch import Contexts, Groups, Pairs, Prompts
from prefopt.datasets.data import Data, Split
from prefopt.datasets.exact import ExactWorld, labelled
from prefopt.errors import PrefoptError
from prefopt.store import digest


class BanditWorld(ExactWorld):
    """The truth of a bandit.

    features: [C, R, d] phi(x, y), drawn so that the difference of two responses is N(0, I). theta: [d] of length
    `scale`, the gold reward is <theta, phi>. reference: [C, R] log-probs of the reference
    policy (uniform). temperature: of the labels. shown: how many responses, the first ones, pairs are of.
    """

    def __init__(
        self, *, contexts: int, responses: int, dimension: int, scale: float, temperature: float, seed: int
    ) -> None:
        draws = np.random.default_rng([seed, 0])
        theta = draws.standard_normal(dimension)
        self.features = torch.from_numpy(draws.standard_normal((contexts, responses, dimension)) / np.sqrt(2))
        self.theta = torch.from_numpy(scale * theta / np.linalg.norm(theta))
        self.rewards = self.features @ self.theta
        self.temperature, self.shown = temperature, responses
        self.reference = torch.full((contexts, responses), -np.log(responses), dtype=torch.float64)


class Bandit:
    """conf/dataset/bandit.yaml: pairs of two different responses, drawn from the reference policy and labelled by
    Bradley-Terry on the gold reward.

    Args:
        pairs, test_pairs: how many. contexts, responses, dimension: C, R and d of the world.
        scale: |theta|, in units of the reward. temperature: of the labels; P(y > y') = sigmoid((r - r') / temperature).
        annotators: how many annotators the labels are spread over; each says |r - r'| / temperature to be the margin.
        seed: of the world and of the pairs.
    """

    world: ClassVar[str] = "exact"
    has_gold: ClassVar[bool] = True
    gives: ClassVar[frozenset[type[Groups]]] = frozenset({Pairs, Prompts, Contexts})

    def __init__(
        self,
        *,
        pairs: int = 4096,
        test_pairs: int = 2048,
        contexts: int = 64,
        responses: int = 16,
        dimension: int = 8,
        scale: float = 1.0,
        temperature: float = 1.0,
        annotators: int = 8,
        seed: int = 0,
    ) -> None:
        for key, value, least in (("pairs", pairs, 1), ("test_pairs", test_pairs, 1), ("contexts", contexts, 1)):
            if value < least:
                raise PrefoptError(f"dataset.{key}={value} is too few", f"give at least {least}")
        if responses < 2:
            raise PrefoptError(f"dataset.responses={responses} leaves nothing to prefer", "give at least 2")
        if temperature <= 0:
            raise PrefoptError(f"dataset.temperature={temperature} is not a temperature", "give a positive number")
        self.pairs, self.test_pairs, self.annotators = pairs, test_pairs, annotators
        self.temperature, self.seed = temperature, seed
        self.make: partial[Any] = partial(
            BanditWorld,
            contexts=contexts,
            responses=responses,
            dimension=dimension,
            scale=scale,
            temperature=temperature,
            seed=seed,
        )

    def load(self, tokenizer: None = None) -> Data:
        world = self.make()
        train, test = (self._split(world, name, size) for name, size in self._sizes())
        return Data(train, test, world=world, counts={f"{k}/used": n for k, n in self._sizes()})

    def checksum(self) -> str:
        return digest([*self._sizes(), self.annotators, self.make.keywords])

    def _sizes(self) -> tuple[tuple[str, int], tuple[str, int]]:
        return ("train", self.pairs), ("test", self.test_pairs)

    def _split(self, world: BanditWorld, name: str, size: int) -> Split:
        draws = np.random.default_rng([self.seed, 1 if name == "train" else 2])
        contexts, responses = len(world.rewards), world.shown
        context = draws.integers(contexts, size=size)
        first = draws.integers(responses, size=size)
        second = (first + draws.integers(1, responses, size=size)) % responses
        gap = (world.rewards[context, first] - world.rewards[context, second]).numpy() / self.temperature
        first_wins = draws.random(size) < expit(gap)
        chosen, rejected = np.where(first_wins, first, second), np.where(first_wins, second, first)
        known = {"annotator": draws.integers(self.annotators, size=size), "group": context % 2, "margin": np.abs(gap)}
        return labelled(world, f"bandit-{self.seed}-{name}", context, chosen, rejected, known)
