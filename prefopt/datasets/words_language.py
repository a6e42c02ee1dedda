"""A language of twenty words in which each word depends on the one before it."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from random import Random

import numpy as np

CLASSES: Mapping[str, tuple[str, ...]] = {
    "colour": ("red", "blue", "green", "white"),
    "animal": ("cat", "dog", "fox", "hen"),
    "food": ("fig", "nut", "egg", "pie"),
    "tool": ("saw", "axe", "pan", "pen"),
}
CONTENT = tuple(word for words in CLASSES.values() for word in words)
WORDS = (*CLASSES, *CONTENT)
CLASS: Mapping[str, str] = {word: name for name, words in CLASSES.items() for word in (name, *words)}

WORTH = 0.1
"""Of a word of the language, on average."""


class Language:
    """P(w | v) proportional to exp(g_vw), g ~ N(0, 1): the law of a word w after a word v.

    said: the words that it may say, after any of WORDS. frequency: [len(said)] how often each comes up in the long run.
    """

    def __init__(self, said: Sequence[str], seed: int) -> None:
        self.said = said
        weights = np.exp(np.random.default_rng([seed, 0]).standard_normal((len(WORDS), len(said))))
        self._after = {word: list(accumulate(row)) for word, row in zip(WORDS, weights.tolist(), strict=True)}
        among = weights[[WORDS.index(word) for word in said]]
        self.frequency = np.linalg.matrix_power(among / among.sum(1, keepdims=True), 64)[0]

    def response(self, last: str, rng: Random, *, length: int, hazard: float) -> list[str]:
        """1 to `length` words after the word `last`; after each one it ends with probability `hazard`."""
        words: list[str] = []
        while not words or (len(words) < length and rng.random() >= hazard):
            words += rng.choices(self.said, cum_weights=self._after[words[-1] if words else last])
        return words

    def values(self, seed: int, scale: float) -> dict[str, float]:
        """What each of WORDS is worth: normal draws, shifted and stretched so that over the language a word's worth has
        mean 0.1 and standard deviation `scale`; 0 where it is never said."""
        drawn = np.random.default_rng([seed, 1]).standard_normal(len(self.said))
        drawn -= self.frequency @ drawn
        worth = WORTH + scale * drawn / np.sqrt(self.frequency @ drawn**2)
        return dict.fromkeys(WORDS, 0.0) | dict(zip(self.said, worth.tolist(), strict=True))
