"""The preference pairs that are measured: seeded, of lognormal lengths, as tokens and as text that becomes them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

PAD, EOS = 0, 1
SPREAD = 0.5
"""Of the logarithm of the lengths."""


class Profile(NamedTuple):
    """Median tokens of prompt and response, and tokens of a row at most."""

    prompt: int
    response: int
    longest: int


PROFILES = {"prompt-heavy": Profile(128, 64, 512), "response-heavy": Profile(48, 128, 512)}
LONG = {"prompt-heavy": Profile(512, 256, 2048), "response-heavy": Profile(256, 512, 2048)}
"""For a GPU."""


class Pair(NamedTuple):
    """Token ids; the responses end with EOS."""

    prompt: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray


def drawn(profile: Profile, count: int, vocabulary: int, seed: int = 0) -> list[Pair]:
    """So many pairs; prompt and response share `profile.longest` as they share its medians."""
    draws = np.random.default_rng(seed)
    whole = profile.prompt + profile.response

    def tokens(median: int) -> np.ndarray:
        length = min(median * draws.lognormal(0, SPREAD), profile.longest * median // whole)
        return draws.integers(EOS + 1, vocabulary, max(2, round(length)))

    def response() -> np.ndarray:
        return np.append(tokens(profile.response)[:-1], EOS)

    return [Pair(tokens(profile.prompt), response(), response()) for _ in range(count)]


def table(pairs: Sequence[Pair]) -> Any:
    """As prefopt has them."""
    from prefopt.batch import Pairs
    from prefopt.table import Ragged, Table

    return Table(
        kind=Pairs,
        ids=np.arange(len(pairs)).astype(str),
        prompt=Ragged.of([pair.prompt for pair in pairs]),
        response=Ragged.of([response for pair in pairs for response in (pair.chosen, pair.rejected)]),
        columns={"label": np.zeros(len(pairs), np.int64)},
    )


def rows(pairs: Sequence[Pair]) -> list[dict[str, str]]:
    """As text, without the EOS, which both sides put there themselves."""

    def text(ids: np.ndarray) -> str:
        return "".join(f" w{i}" for i in ids)

    return [
        {"prompt": text(pair.prompt), "chosen": text(pair.chosen[:-1]), "rejected": text(pair.rejected[:-1])}
        for pair in pairs
    ]


def tokenizer(vocabulary: int) -> Any:
    """One token a word: ` w7` is 7."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": PAD, "<eos>": EOS, **{f"w{i}": i for i in range(EOS + 1, vocabulary)}}
    model = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model.decoder = decoders.Sequence([decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", eos_token="<eos>")
