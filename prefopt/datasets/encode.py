"""Prompts and responses as tokens: cut where that was asked for, each cut and each drop counted."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from prefopt.datasets.corpus import Text
from prefopt.datasets.dialogue import Piece, plain, written
from prefopt.datasets.rows import OR_DROP, OnBad, Problem, brief, reporter
from prefopt.errors import PrefoptError
from prefopt.progress import track
from prefopt.table import Ragged

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Truncation = Literal["keep_end", "keep_start", "drop"]

AT_ONCE = 4096  # texts: the tokenizer's own record of a text takes some 100 bytes a token while it is alive


@dataclass(frozen=True)
class Example:
    """A prompt and its n responses as text. where: file and line, for messages."""

    where: str
    prompt: Text
    responses: tuple[Text, ...]


@dataclass(frozen=True)
class Encoded:
    """The examples that are used. rows: [N] which of those given; prompt: N rows; response: N * n rows."""

    rows: np.ndarray
    prompt: Ragged
    response: Ragged


class Encoder:
    """What turns the examples of one dataset into tokens, by the rules of `tokenise`. counts: grows with each split."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerFast",
        *,
        max_prompt_length: int,
        max_response_length: int,
        prompt_truncation: Truncation,
        on_bad: OnBad,
        counts: Counter[str],
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise PrefoptError(
                f"the tokenizer {tokenizer.name_or_path!r} has no EOS token: nothing would say where a response ends",
                "set tokenizer.eos_token to one of its tokens and save it by tokenizer.save_pretrained(<folder>)",
            )
        self.tokenizer = tokenizer
        self.eos = np.array([tokenizer.eos_token_id], np.int32)
        self.bos = np.array([] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id], np.int32)
        self.prompt_room, self.response_room = max_prompt_length - len(self.bos), max_response_length
        for key, length, least in (
            ("max_prompt_length", max_prompt_length, 1 + len(self.bos)),
            ("max_response_length", max_response_length, 1),
        ):
            if length < least:
                raise PrefoptError(f"dataset.{key}={length} leaves no room for text", f"give {least} or more")
        self.prompt_truncation, self.on_bad, self.counts = prompt_truncation, on_bad, counts
        self._ids: dict[Piece, np.ndarray] = {}

    def encode(self, split: str, examples: Sequence[Example]) -> Encoded:
        """The tokens of `examples`, less those dropped. Raises PrefoptError, also where none is left."""
        counts, report = self.counts, reporter(self.on_bad, self.counts, split)
        counts.setdefault(f"{split}/read", len(examples))
        pieces: dict[int, tuple[Piece, ...]] = {}
        for row, example in enumerate(examples):
            try:
                pieces[row] = written(example.prompt, example.responses, self.tokenizer, example.where)
            except Problem as problem:
                report(problem)
        self._learn(dict.fromkeys(piece for group in pieces.values() for piece in group if piece not in self._ids))
        ids = self._ids

        rows: list[int] = []
        prompts: list[np.ndarray] = []
        responses: list[np.ndarray] = []
        for row, (prompt, *answers) in pieces.items():
            if self.prompt_truncation == "drop" and len(ids[prompt]) > self.prompt_room:
                counts[f"{split}/dropped_long_prompt"] += 1
                continue
            try:
                cut = self._responses([ids[answer] for answer in answers], examples[row])
                prompts.append(self._prompt(ids[prompt], examples[row]))
            except Problem as problem:
                report(problem)
                continue
            rows.append(row)
            responses += cut
            counts[f"{split}/prompt_cut"] += len(ids[prompt]) > self.prompt_room
            counts[f"{split}/response_cut"] += sum(len(ids[answer]) >= self.response_room for answer in answers)
        counts[f"{split}/used"] = len(rows)
        if not rows:
            dropped = {key: count for key, count in counts.items() if key.startswith(f"{split}/dropped_")}
            raise PrefoptError(
                f"no example is left in {split}: read {counts[f'{split}/read']}, dropped {dropped or 'none'}",
                "give more rows, mend them, or raise dataset.max_prompt_length and dataset.max_response_length",
            )
        return Encoded(np.array(rows), Ragged.of(prompts), Ragged.of(responses))

    def _learn(self, pieces: Iterable[Piece]) -> None:
        batches = []
        for template in (False, True):
            alike = [piece for piece in pieces if piece.template is template]
            batches += [alike[start : start + AT_ONCE] for start in range(0, len(alike), AT_ONCE)]
        for batch in track(batches, "tokenise", len(batches)):
            encoded = self.tokenizer(
                [piece.text for piece in batch],
                add_special_tokens=False,
                split_special_tokens=not batch[0].template,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )["input_ids"]
            self._ids.update((piece, np.array(row, np.int32)) for piece, row in zip(batch, encoded, strict=True))

    def _prompt(self, ids: np.ndarray, example: Example) -> np.ndarray:
        if not len(ids):
            raise Problem(
                "empty_prompt",
                example.where,
                f"the prompt has no token: {brief(plain(example.prompt))}",
                "write a prompt that this tokenizer can read, or take the row out" + OR_DROP,
            )
        kept = ids[-self.prompt_room :] if self.prompt_truncation == "keep_end" else ids[: self.prompt_room]
        return np.concatenate([self.bos, kept])

    def _responses(self, answers: list[np.ndarray], example: Example) -> list[np.ndarray]:
        for text, ids in zip(example.responses, answers, strict=True):
            if not len(ids):
                raise Problem(
                    "empty_response",
                    example.where,
                    f"a response has no token: {brief(plain(text))}",
                    "write a response that this tokenizer can read, or take the row out" + OR_DROP,
                )
        cut = [np.concatenate([ids, self.eos])[: self.response_room] for ids in answers]
        if len(cut) == 2 and np.array_equal(cut[0], cut[1]):
            raise Problem(
                "equal_tokens",
                example.where,
                f"the two responses are the same {len(cut[0])} tokens under "
                f"dataset.max_response_length={self.response_room}",
                "raise it, or take the row out" + OR_DROP,
            )
        return cut
