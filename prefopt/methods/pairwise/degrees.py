"""Responses of lower degree: variants that have lost groups of their key phrases (Li et al., 2024, arXiv 2409.17791).

Phrases go in groups of ceil(phrases * lost / (K - 1)). Degree k has lost the k groups that matter most; degree 0 is the
response itself. Length gives such degrees away, and a head may count where it should understand: `matched` variants
have all lost K - 1 groups, the k that matter most and the K - 1 - k that matter least.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from prefopt.batch import Degraded
from prefopt.methods.pairwise.rake import Span
from prefopt.noise.base import uniform
from prefopt.table import Ragged, Table

Keys = Callable[[str], Sequence[Sequence[Span]]]
"""The key phrases of a text, best first, each as the spans of its occurrences."""


def degraded(
    table: Table, tokenizer: Any, *, keys: Keys, degrees: int, lost: float, matched: bool, seed: int, round: int
) -> Table:
    """The pairs with one variant of each response, whose degree is a pure function of (seed, round, id).

    A response with too few key phrases for the highest degree, or of which nothing would be left, keeps degree -1.
    """
    sides = [uniform(table.ids, seed, f"degree {round}.{side}") for side in (0, 1)]
    degree = (np.stack(sides, 1) * degrees).astype(np.int64).ravel()
    texts = tokenizer.batch_decode(list(table.response), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    variants = list(table.response)
    for row, (text, tokens) in enumerate(zip(texts, variants, strict=True)):
        gone = taken(keys(text), degree[row], degrees=degrees, lost=lost, matched=matched)
        if gone is None:
            degree[row] = -1
        elif gone:
            left = without(text, [span for phrase in gone for span in phrase])
            ids = tokenizer(left, add_special_tokens=False)["input_ids"]
            ids += tokens[-1:].tolist() if tokens[-1] == tokenizer.eos_token_id else []
            if ids:
                variants[row] = np.array(ids, np.int32)
            else:
                degree[row] = -1
    ragged = Ragged.of(variants)
    told = {"degree": degree, "given_away": _given_away(ragged.lengths, degree, degrees)}
    columns = {**table.columns, **{name: values.reshape(-1, 2) for name, values in told.items()}}
    return replace(table, kind=Degraded, columns=columns, ragged={**table.ragged, "variant": ragged})


def taken(
    phrases: Sequence[Sequence[Span]], degree: int, *, degrees: int, lost: float, matched: bool
) -> list[Sequence[Span]] | None:
    """The phrases that a variant of this degree has lost; None where there are too few for the highest degree."""
    size = math.ceil(len(phrases) * lost / (degrees - 1))
    if size == 0 or (degrees - 2) * size >= len(phrases):
        return None
    most, rest = phrases[: size * degree], phrases[size * degree :]
    least = rest[max(0, len(rest) - size * (degrees - 1 - degree)) :] if matched else []
    return [*most, *least]


def without(text: str, spans: Sequence[Span]) -> str:
    """The text less these spans and the blanks before them."""
    for start, end in sorted(spans, reverse=True):
        text = text[:start].rstrip() + text[end:]
    return text


def _given_away(lengths: np.ndarray, degree: np.ndarray, degrees: int) -> np.ndarray:
    """Whether the degree is the most frequent one among all other variants of that length."""
    known = degree >= 0
    counts = np.zeros((lengths.max(initial=0) + 1, degrees))
    np.add.at(counts, (lengths[known], degree[known]), 1)
    others = counts[lengths] - (degree[:, None] == np.arange(degrees))
    return others.argmax(1) == degree
