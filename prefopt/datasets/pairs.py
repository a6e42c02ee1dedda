"""Recorded preferences from files or from the hub."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from typing import Literal, get_args

from prefopt.batch import Reasoned
from prefopt.datasets.corpus import Comparison, Corpus, Text
from prefopt.datasets.encode import Truncation
from prefopt.datasets.reader import Splits, read, read_hub
from prefopt.datasets.rows import COLUMNS, OnBad, Row, comparisons, reporter
from prefopt.datasets.text import TextDataset
from prefopt.errors import PrefoptError

Imitated = Literal["both", "chosen"]


class PreferencePairs(TextDataset):
    """Preference pairs that somebody recorded.

    path: a .jsonl, .json or .parquet file (.gz too), a folder of such files named after their split, or a folder of
    `datasets.save_to_disk`. name: the hub's name of the dataset, where there is no path.
    train_split, test_split: their names; a single file is the training split. test_split null: test, else validation,
    where there is one. test_share: where there is no test split, this share of the prompts is held out, chosen by a
    hash of the prompt, so that no prompt is on both sides and new rows move no old one.
    columns: the file's name of each of our columns, null to leave one out (see `rows.comparison`); implicit_prompt: the
    prompt is the shared beginning of chosen and rejected. Where there is a column rationale, every row of both splits
    must say something in it, and the pairs are `Reasoned`.
    on_bad: a row that makes no sense ends the command, or is dropped and counted by its reason. A file that cannot be
    read always ends it. limit: read at most this many rows of each split, the first ones.
    demonstrations: what `method=sft` imitates: both responses of each training pair, or the chosen ones. With the
    chosen ones the labels, and any noise in them, would shape the reference policy before a method sees a pair.
    max_prompt_length, max_response_length, prompt_truncation: see `tokenise`.
    """

    gives = TextDataset.gives | {Reasoned}

    def __init__(
        self,
        *,
        path: str | None = None,
        name: str | None = None,
        train_split: str = "train",
        test_split: str | None = None,
        test_share: float = 0.1,
        columns: Mapping[str, str | None] | None = None,
        implicit_prompt: bool = False,
        on_bad: OnBad = "raise",
        limit: int | None = None,
        demonstrations: Imitated = "both",
        max_prompt_length: int = 512,
        max_response_length: int = 256,
        prompt_truncation: Truncation = "keep_end",
    ) -> None:
        if path is None and name is None:
            raise PrefoptError(
                "dataset.path is not given, and there is no dataset.name to fetch",
                "say dataset.path=<file or folder>; `python -m prefopt.datasets check <file or folder>` looks it over",
            )
        for ours in columns or {}:
            _one_of("columns", ours, COLUMNS)
        _one_of("on_bad", on_bad, get_args(OnBad))
        _one_of("demonstrations", demonstrations, get_args(Imitated))
        _one_of("prompt_truncation", prompt_truncation, get_args(Truncation))
        if not 0 < test_share < 1:
            raise PrefoptError(f"dataset.test_share={test_share} is no share", "give a number between 0 and 1")
        if limit is not None and limit < 1:
            raise PrefoptError(f"dataset.limit={limit} leaves no row", "give 1 or more, or null for all")
        self.path, self.name = path, name
        self.train_split, self.test_split, self.test_share = train_split, test_split, test_share
        self.columns, self.implicit_prompt = dict(columns or {}), implicit_prompt
        self.on_bad, self.limit, self.demonstrations = on_bad, limit, demonstrations
        self.max_prompt_length, self.max_response_length = max_prompt_length, max_response_length
        self.prompt_truncation = prompt_truncation

    def corpus(self) -> Corpus:
        """Both splits as text, read once. Raises PrefoptError at the first bad row, or where a split is empty."""
        return self._corpus

    @cached_property
    def _corpus(self) -> Corpus:
        splits = read_hub(str(self.name)) if self.path is None else read(self.path, only=self.train_split)
        test_name = self._test_name(splits)
        counts: Counter[str] = Counter()
        seen: dict[str, str] = {}
        train = self._comparisons("train", splits[self.train_split], counts, seen)
        if test_name is None:
            train, test = self._held_out(train, counts)
        else:
            test = self._comparisons("test", splits[test_name], counts, seen)
        demonstrations = [
            (row.prompt, response)
            for row in train
            for response in (row.responses if self.demonstrations == "both" else [row.responses[row.label]])
        ]
        return Corpus(train, test, demonstrations, counts=counts)

    def _test_name(self, splits: Splits) -> str | None:
        for key, name in (("train_split", self.train_split), ("test_split", self.test_split)):
            if name is not None and name not in splits:
                raise PrefoptError(
                    f"dataset.{key}={name}: {self.path or self.name} has no such split",
                    f"give one of these: {', '.join(splits)}",
                )
        return self.test_split or next((name for name in ("test", "validation") if name in splits), None)

    def _comparisons(
        self, split: str, rows: Iterable[Row], counts: Counter[str], seen: dict[str, str]
    ) -> list[Comparison]:
        def counted() -> Iterable[Row]:
            for row in islice(rows, self.limit):
                counts[f"{split}/read"] += 1
                yield row

        report = reporter(self.on_bad, counts, split)
        good = list(
            comparisons(counted(), columns=self.columns, implicit_prompt=self.implicit_prompt, report=report, seen=seen)
        )
        if not good:
            raise PrefoptError(
                f"{self.path or self.name}: no row is left in {split}: {dict(counts) or 'none was read'}",
                "see what is wrong by `python -m prefopt.datasets check <file or folder>`",
            )
        return good

    def _held_out(self, rows: list[Comparison], counts: Counter[str]) -> tuple[list[Comparison], list[Comparison]]:
        train: list[Comparison] = []
        test: list[Comparison] = []
        for row in rows:
            (test if _share(row.prompt) < self.test_share else train).append(row)
        if not train or not test:
            raise PrefoptError(
                f"dataset.test_share={self.test_share} of the prompts leaves {len(train)} rows to train on and "
                f"{len(test)} to test on",
                "give the test split a file of its own, more different prompts or another share",
            )
        counts["train/held_out"] = len(test)
        return train, test


def _share(prompt: Text) -> float:
    """A number in [0, 1) that only the prompt decides."""
    digest = blake2b(json.dumps(prompt).encode(), digest_size=8, person=b"heldout").digest()
    return int.from_bytes(digest, "big") / 2**64


def _one_of(key: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise PrefoptError(f"dataset.{key}={value} is unknown", f"give one of these: {', '.join(allowed)}")
