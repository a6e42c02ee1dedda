"""Elections: rankers order items by what each is worth to them, with a bias against one group of items."""

from functools import partial
from typing import ClassVar, Literal, get_args

import numpy as np
import torch

from prefopt.batch import Contexts, Groups, Pairs, Prompts
from prefopt.datasets.data import Data, Split
from prefopt.datasets.exact import ExactWorld, labelled
from prefopt.errors import PrefoptError
from prefopt.store import digest

Bias = Literal["shift", "swap"]


class RankingsWorld(ExactWorld):
    """C elections of n rankers over m items, half of which, drawn at random, stand apart.

    u_vi = q_i + Gumbel noise, q ~ scale N(0, 1): a ranker's order is a draw from the law of Plackett and Luce.
    rewards: [C, m] q. apart: [C, m] the group that the bias is against. honest, rankings: [C, n, m] items, the best
    first, without and with the bias. shift: whether it is one of utilities, so that what a rule gives each item in
    expectation is known.
    """

    temperature = 1.0

    def __init__(
        self,
        *,
        elections: int,
        rankers: int,
        items: int,
        scale: float,
        bias: Bias,
        shift: float,
        share: float,
        locality: float,
        recompute: bool,
        seed: int,
    ) -> None:
        self.seed, draws = seed, np.random.default_rng([seed, 0])
        q = scale * draws.standard_normal((elections, items))
        self.apart = draws.permuted(np.tile(np.arange(items) < items // 2, (elections, 1)), axis=1)
        u = q[:, None] + draws.gumbel(size=(elections, rankers, items))
        self.honest, self.shift = np.argsort(-u, -1), bias == "shift"
        if self.shift:
            self.rankings = np.argsort(-(u - shift * self.apart[:, None]), -1)
        else:
            swap = partial(swapped, share=share, locality=locality, recompute=recompute, draws=draws)
            both = zip(self.honest, self.apart, strict=True)
            self.rankings = np.stack([[swap(one, apart) for one in rankings] for rankings, apart in both])
        self.rewards = torch.from_numpy(q)
        self.reference = torch.full((elections, items), -np.log(items), dtype=torch.float64)
        self.features = torch.zeros(elections, items, 1, dtype=torch.float64)


def swapped(
    ranking: np.ndarray,
    apart: np.ndarray,
    *,
    share: float,
    locality: float,
    recompute: bool,
    draws: np.random.Generator,
) -> np.ndarray:
    """The ranking [m] after floor(share x) swaps, x how many pairs have an item that stands apart above one of the
    others: each of such a pair, drawn in proportion to locality^(distance of their places).

    With share 1 every other item ends above every one that stands apart. recompute: whether pairs and weights are those
    of the ranking as it then is; otherwise they are those of the beginning, each pair is drawn at most once, and the
    bias is milder.
    """
    order = ranking.copy()
    weights = _wrong(order, apart, locality)
    swaps = int(share * np.count_nonzero(weights))
    places = {(a, b): (order[a], order[b]) for a, b in np.argwhere(weights)} if not recompute else {}
    for _ in range(swaps):
        if not weights.any():
            break
        bounds = weights.ravel().cumsum()
        a, b = divmod(int(np.searchsorted(bounds, draws.random() * bounds[-1], side="right")), len(order))
        if recompute:
            order[[a, b]] = order[[b, a]]
            weights = _wrong(order, apart, locality)
        else:
            weights[a, b] = 0
            a, b = (int(np.flatnonzero(order == item)[0]) for item in places[a, b])
            order[[a, b]] = order[[b, a]]
    return order


def _wrong(order: np.ndarray, apart: np.ndarray, locality: float) -> np.ndarray:
    """[m, m] locality^(b - a) of places a above b where the item at a stands apart and that at b does not; else 0."""
    place = np.arange(len(order))
    down = place - place[:, None]
    apart = apart[order]
    weight = np.maximum(float(locality) ** np.maximum(down, 0), np.finfo(float).tiny)
    return np.where((down > 0) & apart[:, None] & ~apart, weight, 0.0)


class Rankings:
    """conf/dataset/rankings.yaml: elections to choose several items in, and pairs of items, the worthier preferred.

    Args:
        elections, rankers, items: C, n and m. scale: of the items' worth; 0 is the impartial culture.
        bias: `shift` takes `shift` from what an item that stands apart is worth to a ranker; `swap` exchanges the
        `share` of pairs that have one above another item, near ones first the smaller `locality` is (see `swapped`).
        pairs, test_pairs: how many. seed: of the elections and of the pairs.

    Raises PrefoptError where a number is out of range, or the bias unknown.
    """

    world: ClassVar[str] = "exact"
    has_gold: ClassVar[bool] = True
    gives: ClassVar[frozenset[type[Groups]]] = frozenset({Pairs, Prompts, Contexts})

    def __init__(
        self,
        *,
        elections: int = 1,
        rankers: int = 100,
        items: int = 20,
        scale: float = 0.7,
        bias: Bias = "shift",
        shift: float = 4.0,
        share: float = 1.0,
        locality: float = 0.5,
        recompute: bool = True,
        pairs: int = 64,
        test_pairs: int = 64,
        seed: int = 0,
    ) -> None:
        for key, value, least in (("elections", elections, 1), ("rankers", rankers, 1), ("items", items, 2)):
            if value < least:
                raise PrefoptError(f"dataset.{key}={value} is too few", f"give at least {least}")
        for key, part, above in (("share", share, 0.0), ("locality", locality, 1e-6)):
            if not above <= part <= 1:
                raise PrefoptError(f"dataset.{key}={part} is no share", f"give a number from {above:g} to 1")
        if bias not in get_args(Bias):
            raise PrefoptError(f"dataset.bias={bias} is unknown", f"choose of {', '.join(get_args(Bias))}")
        self.sizes, self.seed = {"train": pairs, "test": test_pairs}, seed
        self.make: partial[RankingsWorld] = partial(
            RankingsWorld,
            elections=elections,
            rankers=rankers,
            items=items,
            scale=scale,
            bias=bias,
            shift=shift,
            share=share,
            locality=locality,
            recompute=recompute,
            seed=seed,
        )

    def load(self, tokenizer: None = None) -> Data:
        world = self.make()
        train, test = (self._split(world, name, size) for name, size in self.sizes.items())
        return Data(train, test, world=world, counts={f"{name}/used": size for name, size in self.sizes.items()})

    def checksum(self) -> str:
        return digest([self.sizes, self.make.keywords])

    def _split(self, world: RankingsWorld, name: str, size: int) -> Split:
        draws = np.random.default_rng([self.seed, 1 if name == "train" else 2])
        elections, items = world.rewards.shape
        context, first = draws.integers(elections, size=size), draws.integers(items, size=size)
        second = (first + draws.integers(1, items, size=size)) % items
        worth = world.rewards.numpy()
        wins = worth[context, first] >= worth[context, second]
        winner, loser = np.where(wins, first, second), np.where(wins, second, first)
        return labelled(world, f"rankings-{self.seed}-{name}", context, winner, loser)
