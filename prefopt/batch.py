"""The typed batches that every part of prefopt hands to every other.

A batch is *groups*: B prompts with n responses each, every prompt stored once. Two responses and a label are a pair,
one is a demonstration, none is a prompt to answer. On exact worlds a prompt is one token (the context) and a response
is one token (the action), so the same mathematics runs on bandits and on text.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_originals: Any = WeakIdKeyDictionary()
"""What tensors on a device were before they were moved there."""


def on_host(tensor: Tensor) -> Tensor:
    """The tensor on the CPU; of one that `Groups.to` has moved, what it was before, so that nobody waits for a GPU."""
    return tensor if tensor.device.type == "cpu" else _originals.get(tensor, tensor).cpu()


@dataclass(frozen=True, kw_only=True)
class Groups:
    """B prompts with n responses each, right-padded with zeros.

    index: [B] row of each example in its table.
    prompt, prompt_length: [B, P] token ids, [B] tokens.
    response, length: [B, n, T] token ids, [B, n] tokens, EOS included where the response ended.
    mean_length: [] mean of `length` over the whole optimisation batch, whatever micro-batch this is.
    reference: [B, n, T] log-probs in nats of the response tokens under the frozen reference, where they are cached.
    weight: of this batch in the mean over the processes that share an optimisation batch: 1 where all have as many.
    """

    index: Tensor
    prompt: Tensor
    prompt_length: Tensor
    response: Tensor
    length: Tensor
    mean_length: Tensor
    reference: Tensor | None = None
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.index)

    @property
    def n(self) -> int:
        """Responses a prompt."""
        return self.response.shape[1]

    @property
    def mask(self) -> Tensor:
        """[B, n, T] true on response tokens."""
        return torch.arange(self.response.shape[-1], device=self.length.device) < self.length[..., None]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        if self.index.device == torch.device(device):
            return self

        def move(tensor: Tensor) -> Tensor:
            moved = tensor.to(device, non_blocking=non_blocking)
            if tensor.device.type == "cpu":
                _originals[moved] = tensor
            return moved

        return self._map(move)

    def pick(self, rows: Tensor | slice) -> Self:
        """The same batch with these examples only; what belongs to the whole batch stays."""

        def part(tensor: Tensor) -> Tensor:
            picked = tensor[rows] if tensor.ndim else tensor
            if picked is not tensor and tensor in _originals and isinstance(rows, slice):
                _originals[picked] = _originals[tensor][rows]
            return picked

        return self._map(part)

    def split(self, size: int | None) -> Iterator[Self]:
        """Micro-batches of at most `size` examples; the batch itself where `size` is None."""
        if size is None or size >= len(self):
            yield self
            return
        for start in range(0, len(self), size):
            yield self.pick(slice(start, start + size))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {k: change(v) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **changed)


@dataclass(frozen=True, kw_only=True)
class Prompts(Groups):
    """Prompts to answer: n = 0."""


@dataclass(frozen=True, kw_only=True)
class Contexts(Prompts):
    """Prompts of a world whose every response can be enumerated."""


@dataclass(frozen=True, kw_only=True)
class Demonstrations(Groups):
    """Prompts with one response to imitate: n = 1."""


@dataclass(frozen=True, kw_only=True)
class Choices(Groups):
    """n responses, and which of them is recorded as chosen.

    label: [B] 0 to n - 1, the recorded (possibly wrong) choice. The truth is not here.
    """

    label: Tensor


@dataclass(frozen=True, kw_only=True)
class Pairs(Choices):
    """Two responses in a random order, and which of them is recorded as preferred: label 0 or 1.

    annotator, group: [B] codes, -1 where it is not known; None where the data do not have them.
    margin: [B] recorded strength of the preference, in float64, nan where it is not known; None likewise.
    score: [B, 2] of the responses under a method's frozen reward model, where a round began with them.
    """

    annotator: Tensor | None = None
    group: Tensor | None = None
    margin: Tensor | None = None
    score: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Reasoned(Pairs):
    """Pairs with a rationale for either verdict, whichever is recorded.

    judge, judge_length: [B, 2, L] token ids, [B, 2] tokens: prompt, both responses in their order and the verdict that
    response 0, or 1, is the better one, as a prompt. rationale, rationale_length: [B, 2, R], [B, 2]: why, EOS included.
    A verdict that nobody gave a reason for has neither: its lengths are 0.
    """

    judge: Tensor
    judge_length: Tensor
    rationale: Tensor
    rationale_length: Tensor


@dataclass(frozen=True, kw_only=True)
class Revised(Pairs):
    """Pairs whose responses are also answers to the request to revise either of them.

    revised_reference: [B, 4] summed log-probs in nats under the frozen reference, of responses 0 and 1 as revisions of
    response 0, then of both as revisions of response 1.
    """

    revised_reference: Tensor


@dataclass(frozen=True, kw_only=True)
class Degraded(Pairs):
    """Pairs with a variant of each response that has lost part of its key content.

    variant, variant_length: [B, 2, V], [B, 2] token ids and tokens. degree: [B, 2] groups of key phrases taken out, -1
    for a response that has too few of them. given_away: [B, 2] whether the variant's length alone tells its degree.
    """

    variant: Tensor
    variant_length: Tensor
    degree: Tensor
    given_away: Tensor


@dataclass(frozen=True, kw_only=True)
class Rated(Groups):
    """Own samples with their rewards.

    reward: [B, n]; behaviour: [B, n, T] log-probs in nats under the policy that sampled them.
    """

    reward: Tensor
    behaviour: Tensor


@dataclass(frozen=True, kw_only=True)
class Rollouts(Rated):
    """Own samples, token by token, beside a critic's opinion of them.

    finished: [B, n] whether the response ended by itself. value: [B, n, T] of what was there before the token, by the
    critic as it was when the token was drawn. returns, advantage: [B, n, T] what the token led to, in all and beyond
    the value, whitened.
    """

    finished: Tensor
    value: Tensor
    returns: Tensor
    advantage: Tensor


def chosen_rejected(values: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """What belongs to the recorded winner and to the loser: [B, 2, ...] and [B] to two [B, ...]."""
    first, second = values.unbind(1)
    first_won = (label == 0).view(-1, *[1] * (first.ndim - 1))
    return torch.where(first_won, first, second), torch.where(first_won, second, first)
