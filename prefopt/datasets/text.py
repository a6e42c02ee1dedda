"""What all datasets of text share: they become a corpus, and one step makes tokens of it."""

import hashlib
import json
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from prefopt.batch import Degraded, Demonstrations, Groups, Pairs, Prompts, Revised
from prefopt.datasets.corpus import Corpus
from prefopt.datasets.data import Data
from prefopt.datasets.dialogue import plain
from prefopt.datasets.encode import Truncation
from prefopt.datasets.rows import OnBad
from prefopt.datasets.text_world import TextWorld
from prefopt.datasets.tokenise import tokenise
from prefopt.store import cached, digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class TextDataset(ABC):
    """A dataset whose prompts and responses are text.

    max_prompt_length, max_response_length: tokens, BOS and EOS included. prompt_truncation, on_bad: what happens to
    longer prompts and to pairs that tokens leave without sense, see `tokenise`.
    """

    world: ClassVar[str] = "text"
    has_gold: ClassVar[bool] = False
    gives: ClassVar[frozenset[type[Groups]]] = frozenset({Pairs, Prompts, Demonstrations, Degraded, Revised})

    max_prompt_length: int = 512
    max_response_length: int = 256
    prompt_truncation: Truncation = "keep_end"
    on_bad: OnBad = "raise"

    @abstractmethod
    def corpus(self) -> Corpus:
        """Both splits as text. Raises PrefoptError on what cannot be read."""

    def texts(self) -> list[str]:
        """All prompts and responses of the training split, to train a tokenizer on; nothing of the test split."""
        train = self._corpus.train
        return [plain(text) for row in train for text in (row.prompt, *row.responses)]

    def tokenizer(self) -> "PreTrainedTokenizerFast | None":
        """Its own tokenizer, for models that start from nothing; None where one is to be trained on `texts`."""
        return None

    def load(self, tokenizer: "PreTrainedTokenizerFast") -> Data:
        """The corpus as tokens, made once for each tokenizer. Raises PrefoptError."""

        def make(folder: Path) -> None:
            tokenise(
                self._corpus,
                tokenizer,
                max_prompt_length=self.max_prompt_length,
                max_response_length=self.max_response_length,
                prompt_truncation=self.prompt_truncation,
                on_bad=self.on_bad,
            ).save(folder)

        folder = cached("data", {"data": self.checksum(), "tokenizer": _identity(tokenizer)}, make)
        return Data.load(folder, self._world(tokenizer))

    def _world(self, tokenizer: "PreTrainedTokenizerFast") -> TextWorld | None:
        corpus = self._corpus
        return None if corpus.gold is None else TextWorld(corpus.gold, tokenizer, corpus.temperature)

    @cached_property
    def _corpus(self) -> Corpus:
        return self.corpus()

    def checksum(self) -> str:
        """Hash of what `load` makes tokens of, and how: the same for the same content wherever and however it lies."""
        return self._checksum

    @cached_property
    def _checksum(self) -> str:
        corpus = self._corpus
        rules = (self.max_prompt_length, self.max_response_length, self.prompt_truncation, self.on_bad)
        hashed = hashlib.sha256(json.dumps(rules).encode())
        for name, split in (("train", corpus.train), ("test", corpus.test)):
            hashed.update(name.encode())
            for row in split:
                hashed.update(json.dumps(vars(row) | {"where": None}).encode())
        hashed.update(json.dumps(list(corpus.demonstrations)).encode())
        return hashed.hexdigest()


def _identity(tokenizer: "PreTrainedTokenizerFast") -> str:
    backend = tokenizer.backend_tokenizer.to_str()
    return digest([backend, tokenizer.special_tokens_map, tokenizer.chat_template])
