"""A world of text for quick experiments: sentences of twenty words, each word one token, and a reward word by word."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from random import Random
from typing import TYPE_CHECKING

from prefopt.datasets.corpus import Comparison, Corpus, placed
from prefopt.datasets.data import Data
from prefopt.datasets.reviews import ANNOTATORS
from prefopt.datasets.text import TextDataset
from prefopt.datasets.words_language import CLASS, WORDS, Language
from prefopt.datasets.words_tokenizer import word_tokenizer
from prefopt.errors import PrefoptError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PROMPT = 4
TESTED = 5
"""One prompt in so many is for the test split."""

Gold = Callable[[str, str], float]


def total(prompt: str, response: str, values: Mapping[str, float]) -> float:
    """The sum of what the words of `response` are worth; what is no word of the language is worth nothing."""
    return math.fsum(values.get(word, 0.0) for word in response.split())


class Words(TextDataset):
    """conf/dataset/words.yaml: prompts x of four words, two different responses to each, labelled by Bradley-Terry:

        y_t ~ P(. | y_t-1),  y_0 = x_4     (a bigram language, see `Language`)
        r(x, y) = sum_t v(y_t),  v(w) ~ 0.1 + scale N(0, 1)
        P(y > y' | x) = sigmoid((r - r') / temperature + length_bias (|y| - |y'|)),  |y| = words

    A response has `length` words; with a `hazard` it ends after each of them with that probability, and at the latest
    there. Demonstrations are of the same law; the share `revisions` of them shows one response after another, so that a
    policy which imitates them knows the form. One prompt in five is for testing only, by the sum of its words' numbers;
    with `halves` the prompts of training are of one half of the words, and those of testing of the other. Language and
    values are drawn from `seed`, each example from its own id and `seed`: more pairs leave the first ones as they are,
    and neither temperature nor length_bias changes a text. An example's group is the class of its first word.

    Args:
        pairs, test_pairs, demonstrations: how many.
        temperature: of the labels, in units of the gold reward. scale: standard deviation of a word's value.
        length: words, at most. ends: whether EOS follows; without it a policy need not know where its response ends.
        length_bias: of the annotators, in nats a word: they prefer longer responses, the reward does not.

    Raises PrefoptError where the tokenizer does not make one token of each word.
    """

    has_gold = True
    said: Sequence[str] = WORDS

    def __init__(
        self,
        *,
        pairs: int = 8000,
        test_pairs: int = 500,
        demonstrations: int = 4000,
        temperature: float = 1.0,
        scale: float = 0.5,
        length: int = 8,
        hazard: float = 0.0,
        length_bias: float = 0.0,
        halves: bool = False,
        revisions: float = 0.0,
        ends: bool = True,
        seed: int = 0,
    ) -> None:
        self.sizes = {"pairs": pairs, "test_pairs": test_pairs, "demonstrations": demonstrations}
        self.temperature, self.scale, self.length_bias = temperature, scale, length_bias
        self.length, self.hazard, self.halves, self.seed = length, hazard, halves, seed
        self.revisions = revisions
        self._check()
        self.max_prompt_length, self.max_response_length = 1 + PROMPT, length + ends

    @cached_property
    def language(self) -> Language:
        return Language(self.said, self.seed)

    @cached_property
    def values(self) -> dict[str, float]:
        """What each word is worth."""
        return self.language.values(self.seed, self.scale)

    def gold(self) -> Gold:
        """The reward of a (prompt, response)."""
        return partial(total, values=self.values)

    def texts(self) -> list[str]:
        """Every word at the start of a text and within one, whatever the pairs."""
        return [f"{word} {word}" for word in WORDS]

    def tokenizer(self) -> "PreTrainedTokenizerFast":
        return word_tokenizer(self.texts())

    def load(self, tokenizer: "PreTrainedTokenizerFast") -> Data:
        for two in Words.texts(self):
            if (tokens := len(tokenizer(two, add_special_tokens=False)["input_ids"])) != 2:
                raise PrefoptError(
                    f"the tokenizer makes {tokens} tokens of the two words {two!r}, and in this world a word is one",
                    "use model=tiny, or another dataset",
                )
        return super().load(tokenizer)

    def corpus(self) -> Corpus:
        gold = self.gold()
        return Corpus(
            train=[self._comparison(f"words-train-{i:06d}", gold, tests=False) for i in range(self.sizes["pairs"])],
            test=[self._comparison(f"words-test-{i:06d}", gold, tests=True) for i in range(self.sizes["test_pairs"])],
            demonstrations=[self._demonstration(i) for i in range(self.sizes["demonstrations"])],
            gold=gold,
            temperature=self.temperature,
        )

    def _comparison(self, id: str, gold: Gold, tests: bool) -> Comparison:
        rng = Random(f"{self.seed} {id}")
        annotator, chance = rng.choice(ANNOTATORS), rng.random()
        words = self._prompt(rng, tests)
        prompt = " ".join(words)
        first = self._response(words, rng)
        sides = [(text, gold(prompt, text)) for text in (first, self._another(first, words, rng))]
        if chance >= self._preference(*sides):
            sides.reverse()
        ((text, reward), (other_text, other_reward)), label = placed(id, *sides)
        return Comparison(
            id=id,
            prompt=prompt,
            responses=(text, other_text),
            label=label,
            annotator=annotator,
            group=CLASS[words[0]],
            gold=(reward, other_reward),
        )

    def _preference(self, one: tuple[str, float], other: tuple[str, float]) -> float:
        longer = len(one[0].split()) - len(other[0].split())
        return (1 + math.tanh(((one[1] - other[1]) / self.temperature + self.length_bias * longer) / 2)) / 2

    def _demonstration(self, number: int) -> tuple[str, ...]:
        rng = Random(f"{self.seed} words-demonstration-{number:06d}")
        words = self._prompt(rng, tests=False)
        prompt, response = " ".join(words), self._response(words, rng)
        if rng.random() >= self.revisions:
            return prompt, response
        return prompt, self._another(response, words, rng), response

    def _prompt(self, rng: Random, tests: bool) -> list[str]:
        while True:
            words = self._opening(rng, WORDS[tests::2] if self.halves else WORDS)
            if (sum(map(WORDS.index, words)) % TESTED == 0) is tests:
                return words

    def _opening(self, rng: Random, words: Sequence[str]) -> list[str]:
        """Four of `words`."""
        return rng.choices(words, k=PROMPT)

    def _response(self, prompt: Sequence[str], rng: Random) -> str:
        words = self.language.response(prompt[-1], rng, length=self.length, hazard=self.hazard)
        return "".join(f" {word}" for word in words)

    def _another(self, response: str, prompt: Sequence[str], rng: Random) -> str:
        return next(text for text in iter(partial(self._response, prompt, rng), None) if text != response)

    def _check(self) -> None:
        for key, count in {**self.sizes, "length": self.length}.items():
            if count < 1:
                raise PrefoptError(f"dataset.{key}={count} is too few", "give at least 1")
        for key, value in (("temperature", self.temperature), ("scale", self.scale)):
            if not 0 < value < math.inf:
                raise PrefoptError(f"dataset.{key}={value} is not a {key}", "give a positive number")
        if not 0 <= self.hazard < 1:
            raise PrefoptError(f"dataset.hazard={self.hazard} is no hazard", "give a number from 0 to below 1")
        check_share("revisions", self.revisions)
        if not math.isfinite(self.length_bias):
            raise PrefoptError(f"dataset.length_bias={self.length_bias} is not finite", "give 0 to switch it off")


def check_share(key: str, share: float) -> None:
    """Raise PrefoptError where plain demonstrations would not be the majority."""
    if not 0 <= share < 0.5:
        raise PrefoptError(f"dataset.{key}={share} of the demonstrations", "give a share from 0 to below 0.5")
