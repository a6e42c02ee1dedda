"""The flip rate of each part of the data: by annotator, by group, by length."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from prefopt.audit.estimate import Estimate, decided
from prefopt.audit.likelihood import Rate, around, interval, logistic, maximum, surface
from prefopt.table import Table

UNKNOWN = "not recorded"
RATES = np.linspace(0, 0.5, 51)


@dataclass(frozen=True)
class Part:
    """Some of the pairs: what they are told apart by, their name, how many, and their flip rate."""

    by: str
    name: str
    pairs: int
    estimate: Estimate


def parts(table: Table, margins: np.ndarray) -> list[Part]:
    """The parts of the training pairs that the data tell apart, each with a flip rate e_s of its own and one scale a
    for all: the reliabilities eta_k = 1 - e_k of Cao et al. 2025 (arXiv 2509.24159).

    The profile of e_s is over a and all other rates, so what a part does not know of the scale the others tell it. A
    part of a few pairs has a wide interval, not a confident rate: one pair says next to nothing, and so does its row.
    """
    return [part for by, names in _columns(table) for part in _split(by, names, margins)]


def _split(by: str, names: np.ndarray, margins: np.ndarray) -> Iterator[Part]:
    members, member = np.unique(names, return_inverse=True)
    if len(members) == 1:
        return
    signal, (scales, _) = maximum(margins, logistic), around(margins, logistic, count=2)
    heights = surface(margins, logistic, scales, RATES, member)
    best = heights.max(2)
    for place, name in sorted(enumerate(members.tolist()), key=lambda member: _numbered(member[1])):
        others = best.sum(0) - best[place]
        found = Rate(*interval(RATES, (heights[place] + others[:, None]).max(0)), scale=np.nan)
        size = int(np.count_nonzero(member == place))
        yield Part(by, name, size, decided(found, signal, f"{size} pairs"))


def _columns(table: Table) -> Iterator[tuple[str, np.ndarray]]:
    for fact in ("annotator", "group"):
        if fact in table.known:
            codes = np.asarray(table.known[fact])
            names = np.asarray(table.known.get(f"{fact}_name", codes)).astype(str)
            yield fact, np.where(codes < 0, UNKNOWN, names)
    tokens = table.response.lengths.reshape(-1, 2).sum(1)
    edges = np.quantile(tokens, [1 / 3, 2 / 3])
    third = np.searchsorted(edges, tokens)
    yield "tokens of both responses", np.array([_span(tokens[third == k]) for k in range(3)])[third]


def _span(tokens: np.ndarray) -> str:
    return f"{tokens.min()} to {tokens.max()}" if tokens.size else ""


def _numbered(name: str) -> tuple[float, str]:
    """By the number that a name begins with, else by the name."""
    digits = "".join(takewhile(str.isdigit, name))
    return float(digits or "inf"), name
