"""A world of words in which each preference has a cause, and rationales that name it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

from prefopt.batch import Reasoned
from prefopt.datasets.corpus import Comparison, Corpus, Text, placed
from prefopt.datasets.dialogue import plain
from prefopt.datasets.reasons import judgement
from prefopt.datasets.words import Gold, Words, check_share
from prefopt.datasets.words_language import CLASSES, CONTENT, WORDS

RATIONALE = 5


def caused(prompt: str, response: str, scale: float) -> float:
    """`scale` for each word of `response` that is of the class named by the first word of `prompt`."""
    wanted = CLASSES.get("".join(prompt.split()[:1]), ())
    return scale * sum(word in wanted for word in response.split())


def rationale(prompt: Text, winner: Text) -> str:
    """Five words: the class that the prompt names and the winner's words of it, filled up with the class."""
    name = plain(prompt).split()[0]
    words = [name, *(word for word in plain(winner).split() if word in CLASSES[name])]
    return _text([*words, *[name] * RATIONALE][:RATIONALE])


class WordsCauses(Words):
    """conf/dataset/words_causes.yaml: the world of `Words` with prompts that open with the name a of a class, and

        r(x, y) = scale |{t : y_t is a word of class a}|

    Either verdict on a pair has a rationale, which argues for its winner. The share `judged` of the demonstrations are
    rationales of five random words, so that a policy which imitates them knows their form alone.

    Args:
        shuffled: every training pair has the next one's rationales: what they argue for by the verdict, and by nothing
            else. language: the arguments of `Words`.
    """

    gives = Words.gives | {Reasoned}
    said = CONTENT

    def __init__(self, *, judged: float = 0.25, shuffled: bool = False, **language: Any) -> None:
        super().__init__(**language)
        check_share("judged", judged)
        self.judged, self.shuffled = judged, shuffled
        self.max_prompt_length += 2 * self.max_response_length + len(judgement("", ("", ""), 0))

    def gold(self) -> Gold:
        return partial(caused, scale=self.scale)

    def texts(self) -> list[str]:
        return [*super().texts(), *(judgement("", ("", ""), better) for better in (0, 1))]

    def corpus(self) -> Corpus:
        corpus = super().corpus()
        if not self.shuffled:
            return corpus
        pairs = zip(corpus.train, [*corpus.train[1:], corpus.train[0]], strict=True)
        return replace(corpus, train=[replace(row, rationales=_lent(other, row.id)) for row, other in pairs])

    def _comparison(self, id: str, gold: Gold, tests: bool) -> Comparison:
        row = super()._comparison(id, gold, tests)
        first, second = (rationale(row.prompt, response) for response in row.responses)
        return replace(row, rationales=(first, second))

    def _demonstration(self, number: int) -> tuple[str, ...]:
        rng = Random(f"{self.seed} words-judgement-{number:06d}")
        if rng.random() >= self.judged:
            return super()._demonstration(number)
        words = self._prompt(rng, tests=False)
        first = self._response(words, rng)
        asked = judgement(" ".join(words), (first, self._another(first, words, rng)), rng.randrange(2))
        return asked, _text(rng.choices(WORDS, k=RATIONALE))

    def _opening(self, rng: Random, words: Sequence[str]) -> list[str]:
        content = [word for word in words if word in CONTENT]
        return [rng.choice(tuple(CLASSES)), *super()._opening(rng, content)[1:]]


def _lent(other: Comparison, id: str) -> tuple[str, str]:
    """The rationale of `other` for what it records, as that for what example `id` records, and the other likewise."""
    assert other.rationales is not None
    return placed(id, other.rationales[other.label], other.rationales[1 - other.label])[0]


def _text(words: Sequence[str]) -> str:
    return "".join(f" {word}" for word in words)
