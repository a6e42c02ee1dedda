"""Measures on a world of elections: how good a subset that biased rankings chose is without the bias."""

from typing import Any

import numpy as np
from scipy.special import expit, softmax

from prefopt.engine.elections import Rule, alpha, bound, chosen, gamma
from prefopt.evaluation.pairs import Figures

BETAS = (0.5, 0.9)


def elected(world: Any, *, rule: Rule, size: int, least: float) -> Figures:
    """rho, the share of the best subset's F that the chosen one has, with F unbiased, means over elections:
    rho/unconstrained, rho/constrained (by `least`, the share of the subset), rho/matched (as many of the group as the
    best subset has) and rho/best, the highest over bounds; and what a rule's need of rankings goes by, smooth/alpha and
    smooth/gamma/<beta>, where no item is without
    any points.

    F is the expectation where the world knows it, for Borda and the first place, and else of its honest rankings.
    """
    found = [_one(world, rule, c, size, least) for c in range(len(world.rankings))]
    means = {name: float(np.mean([figures[name] for figures in found])) for name in found[0]}
    return {name: value for name, value in means.items() if np.isfinite(value)}


def _one(world: Any, rule: Rule, c: int, size: int, least: float) -> Figures:
    rankings, apart, draws = world.rankings[c], world.apart[c], np.random.default_rng([world.seed, 4, c])
    rankers, m = rankings.shape
    biased = rule.satisfaction(rankings)
    known = expected(rule, world.rewards[c].numpy()) if world.shift else None
    honest = rule.satisfaction(world.honest[c]) if known is None else known[None]

    def subset(points: np.ndarray, at_least: int) -> list[int]:
        return chosen(rule, points, size=size, apart=apart, least=at_least, draws=draws)

    best = subset(honest, 0)

    def rho(at_least: int) -> float:
        return rule.total(honest, subset(biased, at_least)) / rule.total(honest, best)

    s, s_biased = (
        np.array([rule.total(points, [i]) for i in range(m)]) / each
        for points, each in ((honest, 1 if known is not None else rankers), (biased, rankers))
    )
    return {
        "rho/unconstrained": rho(0),
        "rho/constrained": rho(bound(least, size)),
        "rho/matched": rho(int(apart[best].sum())),
        "rho/best": max(rho(at_least) for at_least in range(min(size, int(apart.sum())) + 1)),
        "smooth/alpha": alpha(s, s_biased, rule.most(m)),
        **{f"smooth/gamma/{beta}": gamma(s, s_biased, apart, beta) for beta in BETAS},
    }


def expected(rule: Rule, q: np.ndarray) -> np.ndarray | None:
    """[m] expected points of each item in a ranking by the law of Plackett and Luce; None where no form is known.

    Borda   sum_{j != i} sigmoid( q_i - q_j )        first place   exp(q_i) / sum_j exp(q_j)
    """
    points = rule.points(len(q))
    if rule.weights is None and (points == np.arange(len(q))[::-1]).all():
        beats: np.ndarray = expit(q[:, None] - q)
        return beats.sum(1) - 0.5
    if rule.weights is None and points[0] == 1 and not points[1:].any():
        first: np.ndarray = softmax(q)
        return first
    return None
