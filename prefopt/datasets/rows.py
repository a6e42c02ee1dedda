"""One row of a preference file becomes one comparison, or a problem that says where it is and what to mend."""

import json
import math
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import takewhile
from typing import Any, Literal, TypeVar

from prefopt.datasets.corpus import Comparison, Text, placed
from prefopt.errors import PrefoptError

Row = tuple[str, Mapping[str, Any]]
OnBad = Literal["raise", "drop"]
T = TypeVar("T")

FACTS = ("annotator", "group", "score_chosen", "score_rejected", "margin", "rationale", "rationale_flipped")
COLUMNS = ("id", "prompt", "chosen", "rejected", *FACTS)
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
OR_DROP = "; or drop and count such rows by ++dataset.on_bad=drop"
NO_RATIONALE = (
    "write why the preferred response is the better one, or leave the column out by ++dataset.columns.rationale=null"
    + OR_DROP
)

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 100
brief = _brief.repr


class Problem(PrefoptError):
    """One thing wrong at one place. reason: its kind, as the counts name it; where: file and line."""

    def __init__(self, reason: str, where: str, what: str, mend: str) -> None:
        super().__init__(f"{where}: {what}", mend)
        self.reason, self.where = reason, where


Report = Callable[[Problem], None]


def stop(problem: Problem) -> None:
    """The report that ends the command at the first problem."""
    raise problem


def reporter(on_bad: OnBad, counts: Counter[str], split: str) -> Report:
    """What happens to a bad row: the command ends, or the row is left out and counted as `<split>/dropped_<reason>`."""

    def count(problem: Problem) -> None:
        counts[f"{split}/dropped_{problem.reason}"] += 1

    return stop if on_bad == "raise" else count


def comparisons(
    rows: Iterable[Row],
    *,
    columns: Mapping[str, str | None],
    implicit_prompt: bool,
    report: Report,
    seen: dict[str, str],
) -> Iterator[Comparison]:
    """The good rows as comparisons; each bad one goes to `report`. seen: the ids so far and where they stand."""
    for where, row in rows:
        try:
            found = comparison(where, row, columns=columns, implicit_prompt=implicit_prompt)
            if found.id in seen:
                raise _duplicate(found, seen[found.id], named=row.get(columns.get("id", "id") or "") is not None)
        except Problem as problem:
            report(problem)
            continue
        seen[found.id] = where
        yield found


def comparison(
    where: str, row: Mapping[str, Any], *, columns: Mapping[str, str | None], implicit_prompt: bool
) -> Comparison:
    """The comparison that `row` records.

    columns: the file's name of each of our `COLUMNS`, null to leave one out; what is not there has our name.
    implicit_prompt: the prompt is what `chosen` and `rejected` share at the beginning: of messages the leading ones; of
    dialogues in the form of HH-RLHF all up to the last shared '\\n\\nAssistant:' (where the two part before their last
    turn, the responses span several turns); of other text the longest shared beginning that ends with a word.
    The id is the file's, else a hash of prompt, responses and annotator. rationale: why the chosen response is the
    better one; rationale_flipped: why the rejected one would be, for labels that are flipped. Raises Problem.
    """
    name = {ours: columns.get(ours, ours) or "" for ours in COLUMNS}
    chosen, rejected = (_text(where, row, name[side]) for side in ("chosen", "rejected"))
    if type(chosen) is not type(rejected):
        raise _mixed(where, name["chosen"], name["rejected"])
    if chosen == rejected:
        raise Problem(
            "equal_responses",
            where,
            f"columns {name['chosen']!r} and {name['rejected']!r} are equal: {brief(chosen)}",
            "a preference needs two different responses: mend the row or take it out" + OR_DROP,
        )
    if implicit_prompt:
        prompt, chosen, rejected = _parted(where, chosen, rejected)
    else:
        prompt = _text(where, row, name["prompt"])
        if type(prompt) is not type(chosen):
            raise _mixed(where, name["prompt"], name["chosen"])
    for side, response in (("chosen", chosen), ("rejected", rejected)):
        _checked(where, name["prompt"], prompt, name[side], response)
    _refuse_repeated(where, prompt, chosen, rejected)

    annotator, group = (None if row.get(name[k]) is None else str(row[name[k]]) for k in ("annotator", "group"))
    id = row.get(name["id"])
    id = _content_id(prompt, chosen, rejected, annotator) if id is None else str(id)
    responses, label = placed(id, chosen, rejected)
    return Comparison(
        id=id,
        prompt=prompt,
        responses=responses,
        label=label,
        annotator=annotator,
        group=group,
        scores=_scores(where, row, id, name["score_chosen"], name["score_rejected"]),
        margin=_number(where, row, name["margin"]),
        rationales=_rationales(where, row, id, name["rationale"], name["rationale_flipped"]),
        where=where,
    )


def _text(where: str, row: Mapping[str, Any], column: str) -> Text:
    if column not in row:
        raise Problem(
            "missing_column",
            where,
            f"no column {column!r} (the row has {', '.join(map(repr, row)) or 'none'})",
            "add the column, or say its name in the file by ++dataset.columns.<ours>=<theirs>; where the prompt is the "
            "shared beginning of chosen and rejected, say ++dataset.implicit_prompt=true (check: --implicit-prompt)",
        )
    value = row[column]
    text: Text
    if isinstance(value, str):
        text, parts = value, [value]
    elif isinstance(value, list) and all(_is_message(message) for message in value):
        text = [{"role": message["role"], "content": message["content"]} for message in value]
        parts = [message["content"] for message in text]
    else:
        raise Problem(
            "not_text",
            where,
            f"column {column!r} is {brief(value)}, neither text nor a list of {{role, content}}",
            "write text, or messages as [{'role': 'user', 'content': '...'}, ...]" + OR_DROP,
        )
    for part in parts:
        try:
            part.encode()
        except UnicodeEncodeError as error:
            raise Problem(
                "not_unicode",
                where,
                f"column {column!r} holds {part[error.start]!r} at character {error.start}: half of a surrogate pair",
                "write the whole character, or take the half out" + OR_DROP,
            ) from None
    return text


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def _mixed(where: str, one: str, other: str) -> Problem:
    return Problem(
        "mixed_forms",
        where,
        f"of columns {one!r} and {other!r} one is text and the other a list of messages",
        "give prompt, chosen and rejected in one form: all text, or all lists of {role, content}; where the messages "
        "repeat the prompt, say ++dataset.implicit_prompt=true" + OR_DROP,
    )


def _parted(where: str, chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """The shared beginning, and what is left of each side."""
    prompt: Text
    if isinstance(chosen, list) and isinstance(rejected, list):
        shared = _shared(chosen, rejected)
        prompt = shared if shared and shared[-1]["role"] == "user" else []
        wanted = "start both sides with the same messages, the last of them the user's"
    else:
        dialogue = ASSISTANT in chosen or ASSISTANT in rejected
        prompt = "".join(
            _shared(*(_turns(str(side)) if dialogue else _words(str(side)) for side in (chosen, rejected)))
        )
        wanted = f"start both sides with the same {f'dialogue up to {ASSISTANT!r}' if dialogue else 'words'}"
    if not prompt:
        raise Problem(
            "prompts_differ",
            where,
            f"chosen and rejected share no prompt: {brief(chosen)} and {brief(rejected)}",
            f"{wanted}, or give the prompt in a column of its own and say ++dataset.implicit_prompt=false" + OR_DROP,
        )
    return prompt, chosen[len(prompt) :], rejected[len(prompt) :]


def _turns(dialogue: str) -> list[str]:
    return [turn + ASSISTANT for turn in dialogue.split(ASSISTANT)[:-1]]


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+(?=\s+\S)", text)  # each that another word follows


def _shared(one: list[T], other: list[T]) -> list[T]:
    return [left for left, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]


def _checked(where: str, prompt_column: str, prompt: Text, column: str, response: Text) -> None:
    """Neither is empty, and roles alternate from the prompt through the response."""
    if _is_blank(prompt):
        raise Problem(
            "empty_prompt",
            where,
            f"column {prompt_column!r} has no text: {brief(prompt)}",
            "write a prompt or take the row out" + OR_DROP,
        )
    if _is_blank(response):
        raise Problem(
            "empty_response",
            where,
            f"column {column!r} has no response: {brief(response)}",
            "write a response or take the row out" + OR_DROP,
        )
    if isinstance(prompt, list):
        roles = [message["role"] for message in (*prompt, *response)]
        start = int(roles[0] == "system")
        due = roles[:start] + [("user", "assistant")[i % 2] for i in range(len(roles) - start)]
        due[len(prompt) - 1], due[-1] = "user", "assistant"
        at = next((i for i, (role, right) in enumerate(zip(roles, due, strict=True)) if role != right), None)
        if at is not None:
            raise Problem(
                "roles",
                where,
                f"prompt and column {column!r} together: message {at + 1} has role {roles[at]!r} "
                f"where {due[at]!r} is due",
                "let roles alternate: a system message or none, then user, assistant, ..., the prompt ending with user "
                "and the response with assistant; where the sides repeat the prompt, say ++dataset.implicit_prompt=true"
                + OR_DROP,
            )


def _is_blank(text: Text) -> bool:
    return not (text if isinstance(text, str) else text[-1]["content"] if text else "").strip()


def _refuse_repeated(where: str, prompt: Text, chosen: Text, rejected: Text) -> None:
    """Both responses open with the prompt: it would be read twice. One word may be chance."""
    start = slice(len(prompt))
    if isinstance(prompt, str) and len(prompt.split()) > 1 and chosen[start] == rejected[start] == prompt:
        raise Problem(
            "prompt_repeated",
            where,
            f"chosen and rejected both start with the prompt again: {brief(prompt)}",
            "take it out of the responses, or say ++dataset.implicit_prompt=true" + OR_DROP,
        )


def _number(where: str, row: Mapping[str, Any], column: str) -> float | None:
    value = row.get(column)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Problem(
            "not_a_number",
            where,
            f"column {column!r} is {brief(value)}, not a number",
            "write a finite number without quotes, or leave the column out" + OR_DROP,
        )
    return float(value)


def _scores(where: str, row: Mapping[str, Any], id: str, chosen: str, rejected: str) -> tuple[float, float] | None:
    of_chosen, of_rejected = _number(where, row, chosen), _number(where, row, rejected)
    if of_chosen is None and of_rejected is None:
        return None
    if of_chosen is None or of_rejected is None:
        raise Problem(
            "not_a_number",
            where,
            f"column {(chosen if of_chosen is None else rejected)!r} is missing beside a score of the other side",
            "give both scores or neither" + OR_DROP,
        )
    return placed(id, of_chosen, of_rejected)[0]


def _rationales(where: str, row: Mapping[str, Any], id: str, recorded: str, flipped: str) -> tuple[str, str] | None:
    """By verdict; '' for the flipped one where the row does not argue for it."""
    if not recorded or (recorded not in row and row.get(flipped) is None):
        return None
    reasons = [_reason(where, row, recorded), "" if row.get(flipped) is None else _reason(where, row, flipped)]
    return placed(id, *reasons)[0]


def _reason(where: str, row: Mapping[str, Any], column: str) -> str:
    reason = "" if row.get(column) is None else _text(where, row, column)
    if not isinstance(reason, str) or not reason.strip():
        raise Problem("empty_rationale", where, f"column {column!r} says nothing: {brief(reason)}", NO_RATIONALE)
    return reason


def _content_id(prompt: Text, chosen: Text, rejected: Text, annotator: str | None) -> str:
    return blake2b(json.dumps([prompt, chosen, rejected, annotator]).encode(), digest_size=16).hexdigest()


def _duplicate(found: Comparison, first: str, named: bool) -> Problem:
    if named:
        return Problem(
            "duplicate_id",
            found.where,
            f"id {found.id!r} stands at {first} already",
            "give each row of all splits an id of its own, or leave the column out by ++dataset.columns.id=null: "
            "ids then come from the content" + OR_DROP,
        )
    return Problem(
        "duplicate",
        found.where,
        f"the same prompt, responses and preference as at {first}",
        "take the row out, or tell the two apart by an id or an annotator" + OR_DROP,
    )
