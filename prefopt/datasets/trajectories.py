"""Two tasks of one kind: runs towards a goal that are labelled in the one, and to be labelled in the other (as in
Liu et al., ICML 2024, arXiv 2306.03615, at a scale where everything is known)."""

from functools import partial
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from scipy.special import logit

from prefopt.batch import Groups, Pairs
from prefopt.datasets.data import Data, Split
from prefopt.datasets.exact import ExactWorld, labelled
from prefopt.datasets.transfer import aligned, distances
from prefopt.errors import PrefoptError
from prefopt.store import digest

Labels = Literal["transferred", "nearest", "oracle"]
NOISE = 0.02
"""Standard deviation of a position, by dimension."""
CERTAIN = 1e-3, 1 - 1e-3
"""The probabilities at which log-odds end."""


class TrajectoriesWorld(ExactWorld):
    """R trajectories of the target task, in R^3; the first `shown` of them are what training pairs are of.

        y_t = t (0.2 + 0.8 q) goal + spread (1 - q) sin(pi t) sideways + noise,   t = 1/T .. 1,   q ~ Beta(1.2, 1.2)

    sideways is normal and at right angles to the goal: bad runs fall short and scatter, good ones are alike. The
    reward is the quality q. The source task is of the same kind, in R^2, with another goal.

    features: [1, R, 3 T], standardised by dimension. rewards: [1, R]. source: [M, T, 2] with qualities [M].
    facts: what is known of the labels, for evaluation.
    """

    temperature = 1.0

    def __init__(self, *, sources: int, trajectories: int, fresh: int, steps: int, spread: float, seed: int) -> None:
        draws = np.random.default_rng([seed, 0])
        self.steps, self.shown = steps, trajectories
        self.source, self.quality = _runs(sources, steps, 2, spread, draws)
        self.target, quality = _runs(trajectories + fresh, steps, 3, spread, draws)
        shown = self.target[:trajectories]
        features = (self.target - shown.mean((0, 1))) / shown.std((0, 1))
        self.features = torch.from_numpy(features.reshape(1, len(features), -1))
        self.rewards = torch.from_numpy(quality[None])
        self.reference = torch.full(self.rewards.shape, -np.log(len(quality)), dtype=torch.float64)
        self.facts: dict[str, float] = {}


def _runs(size: int, steps: int, dimension: int, spread: float, draws: np.random.Generator) -> tuple[Any, Any]:
    """[size, steps, dimension] positions of runs towards a goal drawn on the sphere, and their qualities [size]."""
    q, goal = draws.beta(1.2, 1.2, size), draws.standard_normal(dimension)
    goal /= np.linalg.norm(goal)
    sideways = draws.standard_normal((size, dimension))
    sideways -= (sideways @ goal)[:, None] * goal
    t = np.arange(1, steps + 1)[:, None] / steps
    straight = (0.2 + 0.8 * q)[:, None, None] * t * goal
    bend = spread * (1 - q)[:, None, None] * np.sin(np.pi * t) * sideways[:, None]
    return straight + bend + NOISE * draws.standard_normal((size, steps, dimension)), q


class Trajectories:
    """conf/dataset/trajectories.yaml: every pair of the target's trajectories, labelled by the source's labels.

    Test pairs are of fresh trajectories, with true labels. `transferred` labels come through the coupling of the two
    tasks, and their log-odds are the pairs' margins; `nearest` ones are those of the source trajectories that are
    nearest in raw coordinates, with zeros in the place of those that a task lacks, which knows nothing of rotations.

    Args:
        trajectories, sources, fresh: of the target to train on, of the source, and of the target to test on.
        steps: T. spread: of bad runs. test_pairs: how many.
        labels: whose labels training pairs have. source_share: of the source's pairs that have a label.
        starts, iterations: of the search for the coupling, and of each start at most.
        seed: of the world, and of the pairs.

    Raises PrefoptError where a size or a share is out of range, or where no coupling converges.
    """

    world: ClassVar[str] = "exact"
    has_gold: ClassVar[bool] = True
    gives: ClassVar[frozenset[type[Groups]]] = frozenset({Pairs})

    def __init__(
        self,
        *,
        trajectories: int = 40,
        sources: int = 40,
        fresh: int = 200,
        steps: int = 10,
        spread: float = 0.3,
        test_pairs: int = 2000,
        labels: Labels = "transferred",
        source_share: float = 1.0,
        starts: int = 20,
        iterations: int = 60,
        seed: int = 0,
    ) -> None:
        least = {"trajectories": 2, "sources": 2, "fresh": 2, "steps": 1, "test_pairs": 1, "starts": 1, "iterations": 1}
        for key, value in least.items():
            if locals()[key] < value:
                raise PrefoptError(f"dataset.{key}={locals()[key]} is too few", f"give at least {value}")
        if labels not in get_args(Labels):
            raise PrefoptError(f"dataset.labels={labels} is unknown", f"choose of {', '.join(get_args(Labels))}")
        if not 0 < source_share <= 1:
            raise PrefoptError(
                f"dataset.source_share={source_share} leaves no label", "give a share above 0, at most 1"
            )
        self.labels, self.source_share, self.test_pairs, self.seed = labels, source_share, test_pairs, seed
        self.search = {"starts": starts, "iterations": iterations, "seed": seed}
        self.make: partial[TrajectoriesWorld] = partial(
            TrajectoriesWorld,
            sources=sources,
            trajectories=trajectories,
            fresh=fresh,
            steps=steps,
            spread=spread,
            seed=seed,
        )

    def load(self, tokenizer: None = None) -> Data:
        world = self.make()
        first, second = np.triu_indices(world.shown, 1)
        z = self._probabilities(world)[first, second]
        z_true = _preferred(world.rewards[0, : world.shown].numpy())[first, second]
        wrong = (z > 0.5) != (z_true > 0.5)
        world.facts["transfer/accuracy"] = float(1 - wrong.mean())
        margin = np.abs(logit(z.clip(*CERTAIN)))
        train = self._split(world, "train", first, second, {"margin": margin})
        train = train.relabelled(np.where(wrong, 1 - train.truth.label, train.truth.label))
        test = self._split(world, "test", *self._fresh(world))
        counts = {"train/used": len(train.pairs), "test/used": len(test.pairs)}
        return Data(train, test, world=world, counts=counts)

    def checksum(self) -> str:
        return digest([self.labels, self.source_share, self.test_pairs, self.search, self.make.keywords])

    def _probabilities(self, world: TrajectoriesWorld) -> np.ndarray:
        """[N, N] that one trajectory of the target is preferred to another, as far as is known."""
        if self.labels == "oracle":
            return _preferred(world.rewards[0, : world.shown].numpy())
        Z = _preferred(world.quality)
        draws = np.random.default_rng([self.seed, 1])
        unknown = np.triu(draws.random(Z.shape) >= self.source_share, 1)
        Z[unknown | unknown.T] = 0.5
        target = world.target[: world.shown]
        if self.labels == "nearest":
            same_space = np.pad(world.source, ((0, 0), (0, 0), (0, 1)))
            gap = ((target[:, None] - same_space) ** 2).sum((2, 3))
            nearest = gap.argmin(1)
            return Z[nearest][:, nearest]
        best, *others = aligned(distances(world.source), distances(target), **self.search)
        z = best.transferred(Z)
        world.facts["transfer/cost"] = best.cost
        if others:
            agree = (others[0].transferred(Z) > 0.5) == (z > 0.5)
            world.facts["transfer/second_cost"] = others[0].cost
            world.facts["transfer/second_agreement"] = float(agree[np.triu_indices(len(z), 1)].mean())
        return z

    def _fresh(self, world: TrajectoriesWorld) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of different fresh trajectories: [test_pairs] each."""
        draws, size = np.random.default_rng([self.seed, 2]), world.rewards.shape[1] - world.shown
        first = draws.integers(size, size=self.test_pairs)
        second = (first + draws.integers(1, size, size=self.test_pairs)) % size
        return world.shown + first, world.shown + second

    def _split(
        self,
        world: TrajectoriesWorld,
        name: str,
        first: np.ndarray,
        second: np.ndarray,
        known: dict[str, np.ndarray] | None = None,
    ) -> Split:
        q = world.rewards[0].numpy()
        wins = q[first] > q[second]
        winner, loser = np.where(wins, first, second), np.where(wins, second, first)
        name = f"trajectories-{self.seed}-{name}"
        return labelled(world, name, np.zeros_like(winner), winner, loser, known)


def _preferred(quality: np.ndarray) -> np.ndarray:
    """[N, N] whether each trajectory is better than each other one, 1/2 for itself."""
    return (np.sign(quality[:, None] - quality) + 1) / 2
