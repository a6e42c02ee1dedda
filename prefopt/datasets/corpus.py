"""Preference data as text, before any tokenizer has seen it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")
Messages = list[dict[str, str]]
Text = str | Messages


@dataclass(frozen=True)
class Comparison:
    """A prompt, two responses in the order that `order` fixed, and which was recorded as preferred (0 or 1).

    prompt and responses: plain text, or conversational messages of {role, content}. gold: reward of each response
    where it is known; scores: recorded ratings of each; margin: recorded strength of the preference. rationales: why
    the first response would be the better one, and why the second; '' where nobody said. where: file and line, for
    messages.
    """

    id: str
    prompt: Text
    responses: tuple[Text, Text]
    label: int
    annotator: str | None = None
    group: str | None = None
    gold: tuple[float, float] | None = None
    scores: tuple[float, float] | None = None
    margin: float | None = None
    rationales: tuple[str, str] | None = None
    where: str = ""


@dataclass(frozen=True)
class Corpus:
    """Both splits of a dataset as text.

    demonstrations: (prompt, response) to imitate, or (prompt, earlier response, its revision). gold: the world's reward
    of a (prompt, response), where there is one. counts: what was read and dropped so far, by reason. temperature: of
    the world's labels, in units of its reward.
    """

    train: Sequence[Comparison]
    test: Sequence[Comparison]
    demonstrations: Sequence[tuple[Text, ...]]
    gold: Callable[[str, str], float] | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    temperature: float = 1.0


def order(id: str) -> int:
    """Where the preferred response of example `id` stands: 0 or 1 by a hash, so that position says nothing."""
    return blake2b(id.encode(), digest_size=1, person=b"order").digest()[0] & 1


def placed(id: str, chosen: T, rejected: T) -> tuple[tuple[T, T], int]:
    """The two sides in the order that the id fixes, and the label that points at the chosen one."""
    label = order(id)
    return ((chosen, rejected) if label == 0 else (rejected, chosen)), label
