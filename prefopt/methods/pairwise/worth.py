"""Stand-ins for key phrases where words have no grammar: what a world values, and what nothing values."""

import re
from hashlib import blake2b
from typing import Any

from prefopt.methods.pairwise.rake import Span


class Worth:
    """An oracle: the words of a text that the world of `dataset` values most, for good or ill, `top` of them."""

    def __init__(self, *, dataset: Any, top: int = 3) -> None:
        self.values, self.top = dataset.values, top

    def __call__(self, text: str) -> list[list[Span]]:
        words = re.finditer(r"\w+", text)
        ranked = sorted(words, key=lambda word: -abs(self.values.get(word.group(), 0.0)))
        return [[word.span()] for word in ranked[: self.top]]


class Anywhere:
    """The control: `top` words by a hash of text and place, so that as much goes as keys would, and no key content."""

    def __init__(self, *, top: int = 3) -> None:
        self.top = top

    def __call__(self, text: str) -> list[list[Span]]:
        words = re.finditer(r"\w+", text)
        ranked = sorted(words, key=lambda word: blake2b(f"{word.start()} {text}".encode(), digest_size=8).digest())
        return [[word.span()] for word in ranked[: self.top]]
