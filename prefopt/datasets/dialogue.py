"""How messages are written as text before they become tokens."""

from typing import TYPE_CHECKING, NamedTuple

from prefopt.datasets.corpus import Messages, Text
from prefopt.datasets.rows import ASSISTANT, HUMAN, OR_DROP, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPEAKERS = {"system": "\n\nSystem:", "user": HUMAN, "assistant": ASSISTANT}


class Piece(NamedTuple):
    """A text to make tokens of. template: whether special tokens in it are the template's, not just characters."""

    text: str
    template: bool


def plain(text: Text) -> str:
    """Text as it is; messages as in HH-RLHF: '\\n\\nHuman: ...\\n\\nAssistant: ...', and '\\n\\nSystem: ...'."""
    if isinstance(text, str):
        return text
    return "".join(f"{SPEAKERS[message['role']]} {message['content']}" for message in text)


def written(
    prompt: Text, responses: tuple[Text, ...], tokenizer: "PreTrainedTokenizerFast", where: str
) -> tuple[Piece, ...]:
    """The prompt and each response as text, without BOS and EOS.

    Messages are written by the tokenizer's chat template, the prompt up to where the assistant begins and the response
    as what the template adds for it, less a closing EOS; without a template in the plain form, the prompt up to
    '\\n\\nAssistant:'. Raises Problem where a message holds a special token or the template writes the prompt
    differently before a response.
    """
    if isinstance(prompt, str):
        return tuple(Piece(str(text), False) for text in (prompt, *responses))
    answers = [response for response in responses if isinstance(response, list)]
    if tokenizer.chat_template is None:
        texts = [plain(prompt) + ASSISTANT, *(plain(answer).removeprefix(ASSISTANT) for answer in answers)]
        return tuple(Piece(text, False) for text in texts)
    for message in (*prompt, *(message for answer in answers for message in answer)):
        for token in tokenizer.all_special_tokens:
            if token in message["content"]:
                raise Problem(
                    "special_token",
                    where,
                    f"a message holds {token!r}, which the chat template would take for its own",
                    "take it out of the message" + OR_DROP,
                )
    opening = _rendered(tokenizer, prompt, opens=True)
    closings = []
    for answer in answers:
        whole = _rendered(tokenizer, [*prompt, *answer], opens=False)
        if not whole.startswith(opening):
            raise Problem(
                "template",
                where,
                "the chat template writes the prompt differently before a response",
                "give the tokenizer a template that only adds at the end, or prompt, chosen and rejected as text",
            )
        closings.append(_without_end(whole.removeprefix(opening), tokenizer.eos_token))
    opening = opening.removeprefix(tokenizer.bos_token or "")
    return tuple(Piece(text, True) for text in (opening, *closings))


def _rendered(tokenizer: "PreTrainedTokenizerFast", messages: Messages, opens: bool) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opens))


def _without_end(text: str, eos: str) -> str:
    head, _, tail = text.rpartition(eos)
    return text if tail.strip() or eos not in text else head
