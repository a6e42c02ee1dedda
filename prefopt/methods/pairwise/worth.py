"""Stand-ins for key phrases where words have no grammar: what a world values, and what nothing values."""

import re
from hashlib import blake2b
from typing import Any

from prefopt.methods.pairwise.rake import Span


class Worth:
    """An oracle: the words of a text, those first that the world of `dataset` values most, for good or ill."""

    def __init__(self, *, dataset: Any) -> None:
        self.values = dataset.values

    def __call__(self, text: str) -> list[list[Span]]:
        words = re.finditer(r"\w+", text)
        ranked = sorted(words, key=lambda word: -abs(self.values.get(word.group(), 0.0)))
        return [[word.span()] for word in ranked]


class Anywhere:
    """The control: the words by a hash of text and place, so that as much goes as keys would, and no key content."""

    def __call__(self, text: str) -> list[list[Span]]:
        words = re.finditer(r"\w+", text)
        ranked = sorted(words, key=lambda word: blake2b(f"{word.start()} {text}".encode(), digest_size=8).digest())
        return [[word.span()] for word in ranked]
