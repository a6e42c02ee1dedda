"""A small tokenizer, and preference files written for a test."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

WriteRows = Callable[..., Path]


def byte_level(texts: Iterable[str], **special: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, which can write any text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    names = list(dict.fromkeys([*special.values(), "<|turn|>"]))
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_level(["the film was good", "the film was not good"], bos_token="<s>", eos_token="</s>")


@pytest.fixture
def write(tmp_path: Path) -> WriteRows:
    """Rows to a JSONL file; its path. `write(row, row, name="train.jsonl")`."""

    def to_file(*rows: Any, name: str = "pairs.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return to_file
