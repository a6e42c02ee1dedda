"""Rationales: why one of two responses is the better one, and what that is an answer to, as text and as tokens."""

from collections.abc import Sequence

import numpy as np

from prefopt.datasets.corpus import Comparison, Text
from prefopt.datasets.dialogue import plain
from prefopt.datasets.encode import Encoder, Example
from prefopt.datasets.rows import NO_RATIONALE, Problem, reporter
from prefopt.table import Ragged


def judgement(prompt: Text, responses: Sequence[Text], better: int) -> str:
    """The prompt that a rationale answers: both responses in the order in which they are stored, so that only the
    verdict says that number `better`, 0 or 1, is the better one."""
    first, second = map(plain, responses)
    return f"{plain(prompt)}\n\nA:{first}\n\nB:{second}\n\nBetter: {'AB'[better]}\n\nWhy:"


def reasoned(split: str, rows: Sequence[Comparison], encoder: Encoder) -> tuple[np.ndarray, dict[str, Ragged]]:
    """Which of `rows` keep a rationale for the recorded verdict, and their `judge` and `rationale`: two rows of tokens
    an example, by verdict, empty where nobody gave a reason for it.

    Prompt and response, cuts and drops go by the rules of `encoder`, and are counted as those of <split>_reasons.
    Raises PrefoptError.
    """
    report = reporter(encoder.on_bad, encoder.counts, split)
    sound = np.ones(len(rows), bool)
    verdicts: list[tuple[int, int]] = []
    examples: list[Example] = []
    for place, row in enumerate(rows):
        reasons = row.rationales or ("", "")
        if not reasons[row.label]:
            sound[place] = False
            report(Problem("empty_rationale", row.where or row.id, "there is no rationale", NO_RATIONALE))
        for better, reason in enumerate(reasons) if sound[place] else ():
            if reason:
                verdicts.append((place, better))
                examples.append(_example(row, better, reason))
    encoded = encoder.encode(f"{split}_reasons", examples)
    judge, rationale = ([np.zeros(0, np.int32)] * (2 * len(rows)) for _ in range(2))
    kept = set(encoded.rows.tolist())
    for number, (place, _) in enumerate(verdicts):
        sound[place] &= number in kept
    for number, asked, answer in zip(encoded.rows, encoded.prompt, encoded.response, strict=True):
        place, better = verdicts[number]
        judge[2 * place + better], rationale[2 * place + better] = asked, answer
    places = np.flatnonzero(sound)
    both = (2 * places[:, None] + np.arange(2)).ravel()
    return places, {"judge": Ragged.of(judge).take(both), "rationale": Ragged.of(rationale).take(both)}


def _example(row: Comparison, better: int, reason: str) -> Example:
    where, asked = row.where or row.id, judgement(row.prompt, row.responses, better)
    if isinstance(row.prompt, str):
        return Example(where, asked, (reason,))
    return Example(where, [{"role": "user", "content": asked}], ([{"role": "assistant", "content": reason}],))
