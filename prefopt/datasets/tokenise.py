"""The one step from a corpus of text to tables of tokens."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from prefopt.batch import Demonstrations, Pairs, Reasoned
from prefopt.datasets.corpus import Comparison, Corpus, Text
from prefopt.datasets.data import Data, Split, Truth
from prefopt.datasets.encode import Encoder, Example, Truncation
from prefopt.datasets.reasons import judgement, reasoned
from prefopt.datasets.rows import OnBad
from prefopt.datasets.text_world import TextWorld
from prefopt.table import Ragged, Table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def tokenise(
    corpus: Corpus,
    tokenizer: "PreTrainedTokenizerFast",
    *,
    max_prompt_length: int,
    max_response_length: int,
    prompt_truncation: Truncation,
    on_bad: OnBad,
) -> Data:
    """The corpus as tables of tokens.

    A prompt is one BOS, where the tokenizer has one, and its tokens: at most `max_prompt_length` in all, of which
    `prompt_truncation` keeps the end or the start, or drops the example. A response is its tokens and EOS: at most
    `max_response_length` in all; a longer one is cut there and has no EOS. The two become tokens apart, so the boundary
    is one of tokens, and special tokens that stand in plain text are mere characters. Messages are written by the chat
    template, else in a plain form, see `dialogue.written`; the template's BOS is not doubled, and its other special
    tokens stay.

    An example with an empty prompt or response, or with two responses of the same tokens, goes by `on_bad`: it ends
    the command or is dropped. Demonstrations follow the same rules; one that shows a revision has the prompt and the
    earlier response, as far as its EOS, for a prompt.

    Where any row has rationales, all must have one for what they record, and batches are `Reasoned`. A rationale is
    cut like a response; what it answers, see `reasons.judgement`, has room for a prompt and two responses.

    Pairs have the column label [N] int64. Known, where any row says it: annotator, group [N] int64 codes (-1 where a
    row does not say it) and their annotator_name, group_name [N] str; scores [N, 2] in the order of the responses and
    margin [N], what a row says that it is, or the gap of its scores (nan where a row does not say it). Codes number the
    sorted names of both splits.

    counts: for train, test and demonstrations read, used, prompt_cut and response_cut (prompts and responses among the
    used), dropped_<reason>. Raises PrefoptError.
    """
    encoder_of = partial(
        Encoder,
        tokenizer,
        max_response_length=max_response_length,
        prompt_truncation=prompt_truncation,
        on_bad=on_bad,
        counts=Counter(corpus.counts),
    )
    encoder = encoder_of(max_prompt_length=max_prompt_length)
    every = [*corpus.train, *corpus.test]
    judge = None
    if any(row.rationales for row in every):
        frame = len(tokenizer(judgement("", ("", ""), 0), add_special_tokens=False)["input_ids"])
        judge = encoder_of(max_prompt_length=max_prompt_length + 2 * max_response_length + frame)
    facts = _facts(every)
    train = _split(encoder, judge, "train", corpus.train, {k: v[: len(corpus.train)] for k, v in facts.items()})
    test = _split(encoder, judge, "test", corpus.test, {k: v[len(corpus.train) :] for k, v in facts.items()})
    demonstrations = _demonstrations(encoder, corpus.demonstrations) if corpus.demonstrations else None
    world = None if corpus.gold is None else TextWorld(corpus.gold, tokenizer)
    return Data(train, test, demonstrations, world, dict(encoder.counts), max_prompt_length, max_response_length)


def _split(
    encoder: Encoder,
    judge: Encoder | None,
    name: str,
    rows: Sequence[Comparison],
    facts: Mapping[str, np.ndarray],
) -> Split:
    encoded = encoder.encode(name, [Example(row.where or row.id, row.prompt, row.responses) for row in rows])
    used, prompt, response = encoded.rows, encoded.prompt, encoded.response
    ragged: dict[str, Ragged] = {}
    if judge is not None:
        sound, ragged = reasoned(name, [rows[row] for row in used], judge)
        used, prompt = used[sound], prompt.take(sound)
        response = response.take((2 * sound[:, None] + np.arange(2)).ravel())
        encoder.counts[f"{name}/used"] = len(used)
    label = np.array([row.label for row in rows], np.int64)[used]
    pairs = Table(
        kind=Pairs if judge is None else Reasoned,
        ids=np.array([row.id for row in rows])[used],
        prompt=prompt,
        response=response,
        columns={"label": label},
        known={name: values[used] for name, values in facts.items()},
        ragged=ragged,
    )
    gold = np.array([row.gold or (np.nan, np.nan) for row in rows], np.float64)[used]
    return Split(pairs, Truth(label=label, flipped=np.zeros(len(used), bool), gold=gold))


def _facts(rows: Sequence[Comparison]) -> dict[str, np.ndarray]:
    facts = {}
    for fact in ("annotator", "group"):
        names = [getattr(row, fact) for row in rows]
        codes = {name: code for code, name in enumerate(sorted({name for name in names if name is not None}))}
        if codes:
            facts[fact] = np.array([codes.get(name, -1) for name in names], np.int64)
            facts[f"{fact}_name"] = np.array([name or "" for name in names])
    if any(row.scores for row in rows):
        facts["scores"] = np.array([row.scores or (np.nan, np.nan) for row in rows], np.float64)
    margins = np.array([_margin(row) for row in rows])
    if not np.isnan(margins).all():
        facts["margin"] = margins
    return facts


def _margin(row: Comparison) -> float:
    if row.margin is not None:
        return row.margin
    return row.scores[row.label] - row.scores[1 - row.label] if row.scores else np.nan


def _demonstrations(encoder: Encoder, rows: Sequence[tuple[Text, ...]]) -> Table:
    examples = [Example(f"demonstration {i}", prompt, tuple(said)) for i, (prompt, *said) in enumerate(rows, 1)]
    encoded = encoder.encode("demonstrations", examples)
    answers = iter(encoded.response)
    prompts, shown = [], []
    for row, prompt in zip(encoded.rows, encoded.prompt, strict=True):
        *earlier, answer = (next(answers) for _ in examples[row].responses)
        prompts.append(np.concatenate([prompt, *earlier]))
        shown.append(answer)
    ids = [blake2b(json.dumps(rows[row]).encode(), digest_size=16).hexdigest() for row in encoded.rows]
    return Table(kind=Demonstrations, ids=np.array(ids), prompt=Ragged.of(prompts), response=Ragged.of(shown))
