"""How groups lie in the input of a language model: every prompt once, its responses behind it, nothing between."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from prefopt.batch import Groups, on_host


@dataclass(frozen=True)
class Layout:
    """Where the tokens of [B, n] groups stand in one input of the model, flattened to L tokens.

    tokens, positions: [rows, L / rows] ids, and places in their sequences; None where they count from 0 in each row.
    before, own: [M] where the token before each response token stands, and the token itself, in the order of
    `groups.mask`. last: [B * n] where each response ends.
    """

    tokens: Tensor
    positions: Tensor | None
    before: Tensor
    own: Tensor
    last: Tensor


@dataclass(frozen=True)
class Packed(Layout):
    """One row, every prompt followed by its responses, each of which sees the prompt and itself.

    Attention takes them apart again, into a grid of P + n * T cells an example: its prompt, and its responses side by
    side, padded at the right. filled: [L] the cell of each token. prompt: [B * P], response: [B * n * T] the token of
    each cell. seen: [B * n * (P + T)] the tokens that a response may see, its prompt and itself. shape: B, n, P and T.
    prompt_bias: [P, P], response_bias: [B * n, 1, T, P + T]: 0 where a token is seen, -inf where it is not.
    """

    filled: Tensor
    prompt: Tensor
    response: Tensor
    seen: Tensor
    prompt_bias: Tensor
    response_bias: Tensor
    shape: tuple[int, int, int, int]


def packed(groups: Groups, dtype: torch.dtype = torch.float32) -> Packed:
    """All groups in one row without padding; dtype: what attention computes in. Lengths are read on the host, so that
    nothing waits for a GPU."""
    prompt_length, length = on_host(groups.prompt_length), on_host(groups.length)
    device = groups.prompt.device
    (B, n), P, T = length.shape, int(prompt_length.max()), int(length.max())
    steps = torch.arange(max(P, T))
    visible, inside = steps[:P] < prompt_length[:, None], steps[:T] < length[..., None]
    filled = torch.cat([visible, inside.flatten(1)], 1)
    place = filled.flatten().cumsum(0).sub(1).clamp(min=0).view(B, P + n * T)
    prompt, response = place[:, :P], place[:, P:].view(B, n, T)
    end = prompt.gather(1, prompt_length[:, None] - 1)
    before = torch.cat([end[..., None].expand(B, n, 1), response[..., :-1]], -1)[inside]
    last = torch.where(length > 0, response.gather(-1, (length - 1).clamp(min=0)[..., None])[..., 0], end)
    positions = torch.cat([steps[:P].expand(B, P), (prompt_length[:, None] + steps[:T]).repeat(1, n)], 1)

    def there(tensor: Tensor) -> Tensor:
        return tensor.flatten().to(device, non_blocking=True)

    filled = there(filled.flatten().nonzero())
    grid = torch.cat([groups.prompt[:, :P], groups.response[..., :T].flatten(1)], 1)
    ahead = torch.full((max(P, T), max(P, T)), -torch.inf, dtype=dtype, device=device).triu(1)
    unseen = ahead.new_zeros(B, P).masked_fill(~there(visible).view(B, P), -torch.inf)
    return Packed(
        tokens=grid.flatten().index_select(0, filled)[None],
        positions=there(positions).index_select(0, filled)[None],
        before=there(before),
        own=there(response[inside]),
        last=there(last),
        filled=filled,
        prompt=there(prompt),
        response=there(response),
        seen=there(torch.cat([prompt[:, None].expand(B, n, P), response], -1)),
        prompt_bias=ahead[:P, :P],
        response_bias=torch.cat([unseen[:, None, None].expand(B, n, T, P), ahead[:T, :T].expand(B, n, T, T)], -1).view(
            B * n, 1, T, P + T
        ),
        shape=(B, n, P, T),
    )


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
    return Layout(tokens, None, own - 1, own, (first + length - 1).flatten().to(device))


def computing(device: str, dtype: torch.dtype) -> torch.dtype:
    """What matrices of this type are multiplied in on this kind of device: its own, or that of autocast."""
    cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if cast else dtype


@cache
def probe() -> Groups:
    """Groups of ragged lengths, on which two layouts have to agree."""
    length, prompt_length = torch.tensor([[2, 4], [3, 1], [1, 1]]), torch.tensor([3, 1, 2])
    draw = torch.Generator().manual_seed(0)
    return Groups(
        index=torch.arange(3),
        prompt=torch.randint(3, 8, (3, 3), generator=draw),
        prompt_length=prompt_length,
        response=torch.randint(3, 8, (3, 2, 4), generator=draw),
        length=length,
        mean_length=length.float().mean(),
    )
