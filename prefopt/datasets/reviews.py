"""The embedded default: short reviews from a small grammar, with a gold reward that is known exactly."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from random import Random
from statistics import fmean

from prefopt.datasets import grammar
from prefopt.datasets.corpus import Comparison, Corpus, placed
from prefopt.datasets.text import TextDataset
from prefopt.errors import PrefoptError

STRENGTHS = {"mild": 1.0, "trait": 1.0, "liked": 1.0, "recommend": 1.0, "strong": 2.0, "loved": 2.0}
LEXICON: Mapping[str, float] = {
    word: strength if sign == "+" else -strength
    for rules in (grammar.WORDS, *grammar.SUBJECTS.values())
    for kind, strength in STRENGTHS.items()
    for sign in "+-"
    for word in rules.get(kind + sign, ())
}
INTENSIFIERS, HEDGES = frozenset(grammar.WORDS["very"]), frozenset(grammar.WORDS["fairly"])
NEGATIONS = frozenset(grammar.WORDS["not"])
CEILING = 4.0

ANNOTATORS = ("ada", "ben", "cleo", "dan", "eva", "finn", "gus", "hana")
MIXTURE: Mapping[str, float] = {"positive": 0.25, "neutral": 0.5, "negative": 0.25}
HELD_OUT = 0.2
"""The share of all openings that only test prompts use."""


def gold(prompt: str, response: str, length_weight: float = 0.0) -> float:
    """The reward of `response`, whatever the prompt and whatever the text:

        4 tanh(s / 4) + length_weight * words,        s = sum of the sentiment of each *different* word of LEXICON

    A word's sentiment is its strength there (1 or 2, negative for a complaint), x 1.5 where an intensifier (very,
    really, truly) and x 0.5 where a hedge (fairly, rather, somewhat) stands directly before it, and x -0.5 where a
    negation (not, never, hardly) is among the three words before it; all in the same sentence, which ends at . ! ? or
    a new line. A word that is said several times counts once, with the mean of its sentiments, so that saying it
    again earns nothing; tanh leaves little to earn by listing words. A word is a run of letters and digits; case does
    not matter.

        "The room was good."                        s = 1              "The room was not good."       s = -0.5
        "The room was really great."                s = 2 x 1.5 = 3    "It was not a good stay."      s = -0.5
        "The room was fairly bad."                  s = -1 x 0.5       "It was not. Good."            s = 1
        "The room was not very good."               s = -0.5 x 1.5     "Good, good, good."            s = 1
    """
    sentiments = defaultdict(list)
    length = 0
    for sentence in re.split(r"[.!?\n]", response.lower()):
        words = re.findall(r"\w+", sentence)
        length += len(words)
        for place, word in enumerate(words):
            if word in LEXICON:
                sentiments[word].append(LEXICON[word] * _factor(words[max(place - 3, 0) : place]))
    total = sum(fmean(values) for values in sentiments.values())
    return CEILING * math.tanh(total / CEILING) + length_weight * length


def _factor(before: Sequence[str]) -> float:
    nearest = before[-1] if before else ""
    emphasis = 1.5 if nearest in INTENSIFIERS else 0.5 if nearest in HEDGES else 1.0
    return emphasis * (1.0 if NEGATIONS.isdisjoint(before) else -0.5)


class Reviews(TextDataset):
    """conf/dataset/reviews.yaml: openings to go on with, two different responses to each, labelled by Bradley-Terry.

    Every response, of a pair or a demonstration, is written by a policy drawn from `mixture`, so that a policy which
    imitates the demonstrations is the mixture, with a mean gold reward near zero. Test prompts are openings that no
    training prompt uses. Each example is drawn from its own id and `seed`: more pairs leave the first ones as they
    are, and neither `temperature` nor `length_weight` changes a text. An example's group is its subject.

    Args:
        pairs, test_pairs, demonstrations: how many.
        temperature: of the labels, in units of the gold reward; P(y > y') = sigmoid((gold - gold') / temperature).
        mixture: weights of the policies of `grammar.POLICIES`: positive, neutral, negative.
        length_weight: gold reward of every word; makes longer responses better, or worse.
        seed: of the world.
        max_prompt_length, max_response_length: tokens, BOS and EOS included; a sample is cut there too.
    """

    has_gold = True

    def __init__(
        self,
        *,
        pairs: int = 4000,
        test_pairs: int = 500,
        demonstrations: int = 4000,
        temperature: float = 0.5,
        mixture: Mapping[str, float] = MIXTURE,
        length_weight: float = 0.0,
        seed: int = 0,
        max_prompt_length: int = 32,
        max_response_length: int = 32,
    ) -> None:
        self.max_prompt_length, self.max_response_length = max_prompt_length, max_response_length
        self.sizes = {"pairs": pairs, "test_pairs": test_pairs, "demonstrations": demonstrations}
        self.temperature, self.mixture, self.length_weight, self.seed = temperature, dict(mixture), length_weight, seed
        self._check()

    def corpus(self) -> Corpus:
        openings = grammar.openings()
        Random(f"{self.seed} openings").shuffle(openings)
        held_out = round(HELD_OUT * len(openings))
        test, train = openings[:held_out], openings[held_out:]
        return Corpus(
            train=[self._comparison(f"reviews-train-{i:06d}", train) for i in range(self.sizes["pairs"])],
            test=[self._comparison(f"reviews-test-{i:06d}", test) for i in range(self.sizes["test_pairs"])],
            demonstrations=[self._demonstration(i, train) for i in range(self.sizes["demonstrations"])],
            gold=partial(gold, length_weight=self.length_weight),
            temperature=self.temperature,
        )

    def _comparison(self, id: str, openings: Sequence[tuple[str, str]]) -> Comparison:
        rng = Random(f"{self.seed} {id}")
        subject, prompt = rng.choice(openings)
        annotator, chance = rng.choice(ANNOTATORS), rng.random()
        first = second = self._response(subject, rng)
        while second == first:
            second = self._response(subject, rng)
        sides = [(text, gold(prompt, text, self.length_weight)) for text in (first, second)]
        if chance >= self._preference(sides[0][1] - sides[1][1]):
            sides.reverse()
        ((text, reward), (other_text, other_reward)), label = placed(id, *sides)
        return Comparison(
            id=id,
            prompt=prompt,
            responses=(text, other_text),
            label=label,
            annotator=annotator,
            group=subject,
            gold=(reward, other_reward),
        )

    def _preference(self, gap: float) -> float:
        return (1 + math.tanh(gap / self.temperature / 2)) / 2

    def _demonstration(self, number: int, openings: Sequence[tuple[str, str]]) -> tuple[str, str]:
        rng = Random(f"{self.seed} reviews-demonstration-{number:06d}")
        subject, prompt = rng.choice(openings)
        return prompt, self._response(subject, rng)

    def _response(self, subject: str, rng: Random) -> str:
        policy = rng.choices(list(self.mixture), list(self.mixture.values()))[0]
        return grammar.respond(subject, policy, rng)

    def _check(self) -> None:
        for key, count in self.sizes.items():
            if count < 1:
                raise PrefoptError(f"dataset.{key}={count} is too few", "give at least 1")
        if not 0 < self.temperature < math.inf:
            raise PrefoptError(f"dataset.temperature={self.temperature} is not a temperature", "give a positive number")
        if not math.isfinite(self.length_weight):
            raise PrefoptError(f"dataset.length_weight={self.length_weight} is not finite", "give 0 to switch it off")
        for name, weight in self.mixture.items():
            if name not in grammar.POLICIES:
                raise PrefoptError(
                    f"dataset.mixture.{name}: there is no policy of that name", f"use {', '.join(grammar.POLICIES)}"
                )
            if not 0 <= weight < math.inf:
                raise PrefoptError(f"dataset.mixture.{name}={weight} is not a weight", "give 0 or a positive number")
        if not sum(self.mixture.values()) > 0:
            raise PrefoptError("dataset.mixture: the weights sum to 0", "give one of them a positive weight")
