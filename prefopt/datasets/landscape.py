"""Features with a curved gold reward: a world that a learned reward extrapolates in."""

from functools import partial

import numpy as np
import torch

from prefopt.datasets.bandit import Bandit, BanditWorld
from prefopt.errors import PrefoptError


class LandscapeWorld(BanditWorld):
    """g(x) = sum_j a_j tanh( steepness <w_j, x> ) + <b, x> - curb |x|^2 / d,   standardised over all responses.

    features: [C, R, d], Student's t with `tail` degrees of freedom, or normal. Rows w_j ~ N(0, I / d), as many as
    dimensions, a_j ~ N(0, 1), b_j ~ N(0, slope^2). Every response is shown, and as likely under the reference.
    """

    def __init__(
        self,
        *,
        contexts: int,
        responses: int,
        dimension: int,
        tail: float | None,
        steepness: float,
        slope: float,
        curb: float,
        temperature: float,
        seed: int,
    ) -> None:
        draws = np.random.default_rng([seed, 0])
        shape = (contexts, responses, dimension)
        x = draws.standard_normal(shape) if tail is None else draws.standard_t(tail, shape)
        W = draws.standard_normal((dimension, dimension)) / np.sqrt(dimension)
        a, b = draws.standard_normal(dimension), slope * draws.standard_normal(dimension)
        g = np.tanh(steepness * x @ W) @ a + x @ b - curb * (x**2).mean(-1)
        self.features, self.rewards = torch.from_numpy(x), torch.from_numpy((g - g.mean()) / g.std())
        self.temperature, self.shown = temperature, responses
        self.reference = torch.full((contexts, responses), -np.log(responses), dtype=torch.float64)


class Landscape(Bandit):
    """conf/dataset/landscape.yaml: pairs as in `Bandit`, by default almost always as the gold reward says.

    Args:
        pairs, test_pairs: how many. contexts, responses, dimension: C, R and d of the world.
        tail: degrees of freedom of the features' Student t, None: normal. steepness, slope, curb: of the gold reward.
        temperature: of the labels. seed: of the world and of the pairs.
    """

    def __init__(
        self,
        *,
        pairs: int = 1000,
        test_pairs: int = 4000,
        contexts: int = 40,
        responses: int = 2000,
        dimension: int = 16,
        tail: float | None = 3.0,
        steepness: float = 1.0,
        slope: float = 0.0,
        curb: float = 0.05,
        temperature: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__(
            pairs=pairs,
            test_pairs=test_pairs,
            contexts=contexts,
            responses=responses,
            temperature=temperature,
            seed=seed,
        )
        for key, value, above in (("curb", curb, False), ("tail", tail, True)):
            if value is not None and (value < 0 or (above and value == 0)):
                raise PrefoptError(
                    f"dataset.{key}={value} is out of range", f"give a number {'>' if above else '>='} 0"
                )
        self.make = partial(
            LandscapeWorld,
            contexts=contexts,
            responses=responses,
            dimension=dimension,
            tail=tail,
            steepness=steepness,
            slope=slope,
            curb=curb,
            temperature=temperature,
            seed=seed,
        )
