"""A bandit whose pairs cover few of its responses: a world to over-optimise in."""

from functools import partial

import numpy as np
import torch

from prefopt.datasets.bandit import Bandit, BanditWorld
from prefopt.errors import PrefoptError


class CoverageWorld(BanditWorld):
    """One context. Its first `covered` responses hold the share `mass` of the reference, are all that pairs are of, and
    are worth <theta, phi>; each of the others is worth -2, and the data say nothing of it.

    features: [1, R, d] phi(x, y) ~ N(0, I/4), and `spread` times as wide off the data. theta: of length 2 * `scale`, so
    that `scale` is the standard deviation of a covered response's reward.
    """

    UNCOVERED = -2.0

    def __init__(
        self,
        *,
        responses: int,
        covered: int,
        dimension: int,
        mass: float,
        scale: float,
        spread: float,
        temperature: float,
        seed: int,
    ) -> None:
        draws = np.random.default_rng([seed, 0])
        theta = draws.standard_normal(dimension)
        self.covered = torch.arange(responses) < covered
        wide = np.where(self.covered.numpy(), 0.5, 0.5 * spread)[:, None]
        self.features = torch.from_numpy(wide * draws.standard_normal((1, responses, dimension)))
        worth = self.features @ torch.from_numpy(2 * scale * theta / np.linalg.norm(theta))
        self.rewards = torch.where(self.covered, worth, self.UNCOVERED)
        share = torch.where(self.covered, mass / covered, (1 - mass) / (responses - covered))
        self.reference = share.double().log()[None]
        self.temperature, self.shown = temperature, covered


class Coverage(Bandit):
    """conf/dataset/coverage.yaml: pairs as in `Bandit`, of covered responses alone.

    Args:
        pairs, test_pairs: how many. responses, covered, dimension: R, how many of them are covered, and d.
        mass: of the reference on the covered ones. scale: standard deviation of their rewards. spread: of the features
        of the others, in units of theirs. temperature: of the labels. seed: of the world and of the pairs.
    """

    def __init__(
        self,
        *,
        pairs: int = 60,
        test_pairs: int = 512,
        responses: int = 30,
        covered: int = 8,
        dimension: int = 6,
        mass: float = 0.75,
        scale: float = 8.0,
        spread: float = 1.2,
        temperature: float = 10.0,
        seed: int = 0,
    ) -> None:
        super().__init__(pairs=pairs, test_pairs=test_pairs, temperature=temperature, seed=seed)
        if not 2 <= covered < responses:
            raise PrefoptError(
                f"dataset.covered={covered} of dataset.responses={responses} leaves nothing to compare, or all covered",
                "cover at least 2 responses, and not all",
            )
        if not 0 < mass < 1:
            raise PrefoptError(f"dataset.mass={mass} is no share", "give a number between 0 and 1")
        self.make = partial(
            CoverageWorld,
            responses=responses,
            covered=covered,
            dimension=dimension,
            mass=mass,
            scale=scale,
            spread=spread,
            temperature=temperature,
            seed=seed,
        )
