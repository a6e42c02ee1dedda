"""Annotators of several populations, who want different things: whom a single reward serves badly is known exactly."""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from prefopt.batch import Contexts, Groups, Pairs, Prompts
from prefopt.datasets.data import Data, Split
from prefopt.datasets.exact import ExactWorld, apportioned, labelled
from prefopt.errors import PrefoptError
from prefopt.store import digest


class PopulationsWorld(ExactWorld):
    """The truth of populations.

    features: [C, R, d] phi(x, y), of N(0, I). group_rewards: [U, C, R] of
    each group, `scale` <sum_j wants_uj e_j, phi> with orthonormal directions e_j. shares: [U] of the annotators.
    rewards: [C, R] gold, the mean of the groups' by share. reference: [C, R] log-probs of the reference policy
    (uniform).
    """

    temperature = 1.0

    def __init__(
        self, *, wants: Tensor, shares: Tensor, contexts: int, responses: int, dimension: int, scale: float, seed: int
    ) -> None:
        draws = np.random.default_rng([seed, 0])
        directions, _ = np.linalg.qr(draws.standard_normal((dimension, wants.shape[1])))
        self.features = torch.from_numpy(draws.standard_normal((contexts, responses, dimension)))
        thetas = scale * wants @ torch.from_numpy(directions).T
        self.group_rewards = torch.einsum("crd,ud->ucr", self.features, thetas)
        self.rewards = torch.einsum("u,ucr->cr", shares, self.group_rewards)
        self.reference = torch.full((contexts, responses), -np.log(responses), dtype=torch.float64)

    def group_reward(self, groups: Groups) -> Tensor:
        """[U, B, n] what each response is worth to each group."""
        return self.group_rewards.to(groups.prompt.device)[:, groups.prompt[:, :1], groups.response[..., 0]]


class Populations:
    """conf/dataset/populations.yaml: pairs of two different responses, drawn from the reference policy, each labelled
    by one annotator, by Bradley-Terry on the reward of the annotator's group.

    Annotators label as many pairs each, as near as may be, in both splits. Which group someone is of is recorded beside
    the pairs for reports by group; no loss reads it, and no annotator's code tells it.

    Args:
        wants: a row a group, its weight on each of some orthonormal directions. ratio: of the groups' sizes.
        annotators, pairs, test_pairs: how many. contexts, responses, dimension: C, R and d of the world.
        scale: of the rewards. seed: of the world and of the pairs.

    Raises PrefoptError where `wants` and `ratio` are not of as many groups, or a group gets no annotator.
    """

    world: ClassVar[str] = "exact"
    has_gold: ClassVar[bool] = True
    has_groups: ClassVar[bool] = True
    gives: ClassVar[frozenset[type[Groups]]] = frozenset({Pairs, Prompts, Contexts})

    def __init__(
        self,
        *,
        wants: Sequence[Sequence[float]],
        ratio: Sequence[float],
        annotators: int = 44,
        pairs: int = 528,
        test_pairs: int = 2048,
        contexts: int = 60,
        responses: int = 20,
        dimension: int = 6,
        scale: float = 2.0,
        seed: int = 0,
    ) -> None:
        if len({len(row) for row in wants}) != 1 or not 0 < len(wants[0]) <= dimension:
            raise PrefoptError(
                f"dataset.wants={wants} has no weight for each of the same directions, {dimension} at most",
                "give every group a row of as many numbers, or raise dataset.dimension",
            )
        if len(ratio) != len(wants) or min(ratio) <= 0:
            raise PrefoptError(
                f"dataset.ratio={ratio} is no ratio of {len(wants)} groups", "give one positive number a group"
            )
        for key, value in (("pairs", pairs), ("test_pairs", test_pairs), ("contexts", contexts)):
            if value < 1:
                raise PrefoptError(f"dataset.{key}={value} is too few", "give at least 1")
        if responses < 2:
            raise PrefoptError(f"dataset.responses={responses} leaves nothing to prefer", "give at least 2")
        self.group = apportioned(np.array(ratio, float) / sum(ratio), annotators)
        size = np.bincount(self.group, minlength=len(wants))
        if not size.all():
            raise PrefoptError(
                f"dataset.annotators={annotators} leaves group {size.argmin()} nobody (dataset.ratio={ratio})",
                "raise dataset.annotators",
            )
        self.annotators, self.sizes, self.seed = annotators, {"train": pairs, "test": test_pairs}, seed
        self.make: partial[Any] = partial(
            PopulationsWorld,
            wants=torch.tensor(wants, dtype=torch.float64),
            shares=torch.from_numpy(size / annotators),
            contexts=contexts,
            responses=responses,
            dimension=dimension,
            scale=scale,
            seed=seed,
        )

    def load(self, tokenizer: None = None) -> Data:
        world = self.make()
        train, test = (self._split(world, name, size) for name, size in self.sizes.items())
        return Data(train, test, world=world, counts={f"{name}/used": size for name, size in self.sizes.items()})

    def checksum(self) -> str:
        tensors = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in self.make.keywords.items()}
        return digest([self.annotators, self.sizes, tensors])

    def _split(self, world: PopulationsWorld, name: str, size: int) -> Split:
        draws = np.random.default_rng([self.seed, 1 if name == "train" else 2])
        contexts, responses = world.rewards.shape
        context = draws.integers(contexts, size=size)
        first = draws.integers(responses, size=size)
        second = (first + draws.integers(1, responses, size=size)) % responses
        annotator = np.arange(size) % self.annotators
        group = np.random.default_rng([self.seed, 3]).permutation(self.group)[annotator]
        rewards = world.group_rewards.numpy()
        first_wins = draws.random(size) < expit(rewards[group, context, first] - rewards[group, context, second])
        chosen, rejected = np.where(first_wins, first, second), np.where(first_wins, second, first)
        known = {"annotator": annotator, "group": group}
        return labelled(world, f"populations-{self.seed}-{name}", context, chosen, rejected, known)
