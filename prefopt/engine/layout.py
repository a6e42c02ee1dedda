"""How groups lie in the input of a language model: every prompt once, its responses behind it, nothing between."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefopt.batch import Groups, on_host

WITHIN = 0.7
"""On a CPU, sequences are padded together in attention where the shortest has this share of the longest's tokens."""


@dataclass(frozen=True)
class Layout:
    """Where the tokens of [B, n] groups stand in one input of the model, flattened to L tokens.

    tokens, positions: [rows, L / rows] ids, and places in their sequences; None where they count from 0 in each row.
    before, own: [M] where the token before each response token stands, and the token itself, in the order of
    `groups.mask`. last: [B * n] where each response ends. asked: [B] where each prompt does.
    """

    tokens: Tensor
    positions: Tensor | None
    before: Tensor
    own: Tensor
    last: Tensor
    asked: Tensor


@dataclass(frozen=True)
class Block:
    """N sequences of up to Q tokens that attend to up to K, padded together: [N, Q] and [N, K] cells.

    bias: [N, 1, Q, K] 0 where a token is seen and -inf where it is not, or [Q, Q] where all is a token's own past.
    """

    sequences: int
    asking: int
    seen: int
    bias: Tensor

    @property
    def causal(self) -> bool:
        """Whether a token sees what is before it in its own sequence, and nothing else."""
        return self.bias.ndim == 2


@dataclass(frozen=True)
class Packed(Layout):
    """One row, every prompt followed by its responses, each of which sees the prompt and itself.

    blocks: how attention takes them apart again. asking, seen: the token of each of their cells, block after block.
    filled: [L] at which asking cell each token is.
    """

    blocks: tuple[Block, ...]
    asking: Tensor
    seen: Tensor
    filled: Tensor


def packed(groups: Groups, dtype: torch.dtype = torch.float32) -> Packed:
    """All groups in one row without padding; dtype: what attention computes in. Lengths are read on the host, so that
    nothing waits for a GPU."""
    prompt_length, length = (on_host(tensor).numpy() for tensor in (groups.prompt_length, groups.length))
    device = groups.prompt.device
    (B, n), P, T = length.shape, int(prompt_length.max()), int(length.max())
    parts = np.concatenate([prompt_length[:, None], length], 1)
    starts = (parts.cumsum() - parts.ravel()).reshape(parts.shape)
    prompt, response = starts[:, 0], starts[:, 1:]
    inside = np.arange(T) < length[..., None]
    filled = np.concatenate([np.arange(P) < prompt_length[:, None], inside.reshape(B, n * T)], 1)
    places = np.concatenate(
        [np.broadcast_to(np.arange(P), (B, P)), np.tile(prompt_length[:, None] + np.arange(T), (1, n))], 1
    )
    own = (response[..., None] + np.arange(T))[inside]
    ends = (prompt + prompt_length - 1)[:, None]
    before = np.where(np.arange(T) == 0, ends[..., None], response[..., None] + np.arange(T) - 1)[inside]
    last = np.where(length > 0, response + length - 1, ends)

    prompts = (prompt, prompt_length, prompt, np.zeros_like(prompt))
    responses = tuple(
        np.broadcast_to(each, length.shape).ravel()
        for each in (response, length, prompt[:, None], prompt_length[:, None])
    )
    blocks, asking, seen = [], [], []
    for start, tokens, context, past in (prompts, responses):
        for chosen in alike(tokens, WITHIN if device.type == "cpu" else 0.0):
            some = [values[chosen] for values in (start, tokens, context, past)]
            block, queries, keys = blocked(*some, dtype=dtype, device=device)
            blocks.append(block)
            asking.append(queries.ravel())
            seen.append(keys.ravel())
    cells = np.concatenate(asking)
    at = np.empty(parts.sum(), np.int64)
    at[cells[::-1]] = np.arange(len(cells))[::-1]

    def moved(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.ravel()).to(device, non_blocking=True)

    grid = torch.cat([groups.prompt[:, :P], groups.response[..., :T].flatten(1)], 1)
    return Packed(
        tokens=grid.flatten().index_select(0, moved(filled.ravel().nonzero()[0]))[None],
        positions=moved(places[filled])[None],
        before=moved(before),
        own=moved(own),
        last=moved(last),
        asked=moved(ends),
        blocks=tuple(blocks),
        asking=moved(cells),
        seen=moved(np.concatenate(seen)),
        filled=moved(at),
    )


def alike(lengths: np.ndarray, within: float) -> list[np.ndarray]:
    """Sequences in groups whose shortest has more than the share `within` of the longest's tokens; 0: all in one.
    Those without tokens are in none."""
    some = lengths.nonzero()[0]
    if not within or not len(some):
        return [some] if len(some) else []
    level = np.floor(np.log(lengths.max() / lengths[some]) / -np.log(within))
    return [some[level == each] for each in np.unique(level)]


def blocked(
    start: np.ndarray, tokens: np.ndarray, context: np.ndarray, past: np.ndarray, *, dtype: torch.dtype, device: Any
) -> tuple[Block, np.ndarray, np.ndarray]:
    """A block of N sequences that begin at `start` and see the `past` tokens from `context` on besides their own, and
    the tokens of its [N, Q] and [N, K] cells: behind a sequence's end they are its last one."""
    Q, K = int(tokens.max()), int((past + tokens).max())
    asking = start[:, None] + np.minimum(np.arange(Q), tokens[:, None] - 1)
    key = np.minimum(np.arange(K), (past + tokens - 1)[:, None])
    seen = np.where(key < past[:, None], context[:, None] + key, (start - past)[:, None] + key)
    ahead = torch.arange(K) > torch.from_numpy(past)[:, None, None] + torch.arange(Q)[:, None]
    ahead = (ahead[:, None] if past.any() else torch.ones(Q, Q, dtype=torch.bool).triu(1)).to(device, non_blocking=True)
    bias = torch.zeros(ahead.shape, dtype=dtype, device=device).masked_fill(ahead, -torch.inf)
    return Block(len(start), Q, K, bias), asking, seen


def rows(groups: Groups) -> Layout:
    """Each response in a row of its own, behind its prompt: what any causal LM takes, padded at the right, so that no
    real token sees the padding and no attention mask is needed."""
    prompt_length, length = on_host(groups.prompt_length), on_host(groups.length)
    device = groups.prompt.device
    (B, n), (P, T) = length.shape, (groups.prompt.shape[1], groups.response.shape[-1])
    width = int((prompt_length[:, None] + length).max())
    inside = torch.arange(T) < length[..., None]
    first = torch.arange(B * n).view(B, n) * width + prompt_length[:, None]
    own = (first[..., None] + torch.arange(T))[inside].to(device)

    tokens = groups.prompt.new_zeros(B * n, max(width, P))
    tokens[:, :P] = groups.prompt.repeat_interleave(n, 0)
    tokens = tokens[:, :width].contiguous()
    tokens.view(-1)[own] = groups.response.flatten()[inside.flatten().nonzero()[:, 0].to(device)]
    ends = first[:, 0] - 1
    return Layout(tokens, None, own - 1, own, (first + length - 1).flatten().to(device), ends.to(device))


def computing(device: str, dtype: torch.dtype) -> torch.dtype:
    """What matrices of this type are multiplied in on this kind of device: its own, or that of autocast."""
    cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if cast else dtype


@cache
def probe(vocabulary: int) -> Groups:
    """Groups of ragged lengths, on which two layouts have to agree."""
    length, prompt_length = torch.tensor([[2, 9], [12, 1], [1, 1]]), torch.tensor([3, 1, 14])
    draw = torch.Generator().manual_seed(0)
    return Groups(
        index=torch.arange(3),
        prompt=torch.randint(0, vocabulary, (3, 14), generator=draw),
        prompt_length=prompt_length,
        response=torch.randint(0, vocabulary, (3, 2, 12), generator=draw),
        length=length,
        mean_length=length.float().mean(),
    )
