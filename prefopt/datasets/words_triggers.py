"""A world of words in which only a few tokens bear reward, and which ones is known."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prefopt.batch import Groups
from prefopt.datasets.text_world import TextWorld
from prefopt.datasets.words import Gold, Words
from prefopt.datasets.words_language import WORDS
from prefopt.errors import PrefoptError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def triggered(prompt: str, response: str, values: Mapping[str, float], triggers: Collection[str]) -> float:
    """What the words of `response` that stand right after a trigger are worth; a prompt's last word may be one."""
    before, words = ["", *prompt.split()][-1], response.split()
    return math.fsum(values.get(w, 0.0) for last, w in zip([before, *words], words, strict=False) if last in triggers)


@dataclass(frozen=True)
class TriggerWorld(TextWorld):
    """triggers: the words after which a word bears reward."""

    triggers: Collection[str] = ()

    def bearing(self, groups: Groups) -> Tensor:
        """[B, n, T] whether a token of a response bears reward; EOS and padding do not."""
        last = groups.prompt.gather(1, groups.prompt_length[:, None] - 1)[:, None].expand(-1, groups.n, -1)
        before = torch.cat([last, groups.response[..., :-1]], -1)
        return self._are(before, self.triggers) & self._are(groups.response, WORDS) & groups.mask

    def _are(self, tokens: Tensor, words: Collection[str]) -> Tensor:
        ids = [self.tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0] for word in words]
        return torch.isin(tokens, torch.tensor(ids, device=tokens.device))


class WordsTriggers(Words):
    """conf/dataset/words_triggers.yaml: the world of `Words`, with

        r(x, y) = sum of v(y_t) over all t with y_t-1 a trigger,  y_0 = x_4

    so that a word's reward shows in the word before it, and nowhere else.

    Args:
        triggers: how many of the words are triggers, drawn from the seed. language: the arguments of `Words`.
    """

    def __init__(self, *, triggers: int = 5, **language: Any) -> None:
        super().__init__(**language)
        if not 1 <= triggers <= len(WORDS):
            raise PrefoptError(f"dataset.triggers={triggers}: there are {len(WORDS)} words", "give one of them or more")
        self.triggers = frozenset(Random(f"{self.seed} triggers").sample(WORDS, triggers))

    def gold(self) -> Gold:
        return partial(triggered, values=self.values, triggers=self.triggers)

    def _world(self, tokenizer: "PreTrainedTokenizerFast") -> TriggerWorld:
        return TriggerWorld(self.gold(), tokenizer, self.temperature, self.triggers)
