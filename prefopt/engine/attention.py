"""Attention over packed groups: prompts attend to themselves, responses to their prompt and to themselves.

It is an implementation of attention as transformers knows them, beside `sdpa`, for any model that lets its attention
be chosen. What is not packed, as in sampling, it leaves to `sdpa`.
"""

import logging
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.weak import WeakIdKeyDictionary

from prefopt.batch import Groups
from prefopt.engine.layout import Layout, Packed, computing, packed, probe, rows

log = logging.getLogger(__name__)

NAME = "prefopt"
SHORT = 1024
"""Keys up to which scores are held whole in bfloat16 on a CPU, where torch's fused kernel takes twice the time."""
NEEDS_MORE = ("sliding_window", "softcap", "s_aux", "position_bias")
"""What some models ask of their attention, and is not done here."""

_packs: Any = WeakIdKeyDictionary()
_compiled: Any = WeakIdKeyDictionary()


def laid_out(backbone: Any, groups: Groups) -> Layout:
    """The best layout of groups that this transformer understands."""
    if backbone not in _packs:
        _packs[backbone] = _can_pack(backbone)
    if not _packs[backbone]:
        return rows(groups)
    return packed(groups, computing(groups.prompt.device.type, backbone.dtype))


def states(backbone: Any, where: Layout, **more: Any) -> Any:
    """The transformer's output on a layout; its hidden states are [rows, L / rows, d]."""
    if not isinstance(where, Packed):
        return backbone(input_ids=where.tokens, use_cache=False, **more)
    ours = where.tokens.new_empty(1, 1, 1, 1)  # a mask of four dimensions keeps transformers from making its own
    run = _compiled.get(backbone, backbone) if backbone in _packs else backbone
    return run(
        input_ids=where.tokens,
        position_ids=where.positions,
        attention_mask=ours,
        use_cache=False,
        layout=where,
        **more,
    )


def compile_packed(backbone: Any) -> None:
    """Have torch compile this transformer for what is packed: once, for all lengths."""
    _compiled[backbone] = torch.compile(backbone, dynamic=True)


class Unpackable(Exception):
    """The model asks more of its attention than is done here."""


@torch.no_grad()
def _can_pack(backbone: Any) -> bool:
    """Whether the transformer lets its attention be chosen, and has the same states packed as in rows. From then on its
    attention is the one here."""
    config = backbone.config
    if not getattr(backbone, "_supports_attention_backend", False) or config._attn_implementation not in ("sdpa", NAME):
        return False
    register()
    found, device = [], next(backbone.parameters()).device
    with torch.autocast(device.type, enabled=False):
        groups = probe().to(device)
        for name, where in (("sdpa", rows(groups)), (NAME, packed(groups, backbone.dtype))):
            config._attn_implementation = name
            try:
                found.append(states(backbone, where).last_hidden_state.flatten(0, 1)[where.before].float())
            except (Unpackable, TypeError, ValueError, RuntimeError, AttributeError) as error:
                log.debug("%s is not packed: %s", type(backbone).__name__, error)
                config._attn_implementation = "sdpa"
                return False
    alike = bool((found[0] - found[1]).norm() < 0.02 * found[0].norm())
    config._attn_implementation = NAME if alike else "sdpa"
    return alike


def register() -> None:
    """Let transformers know this attention."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Packed | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """[1, L, heads, D] from [1, heads, L, D] queries and [1, key heads, L, D] keys and values of packed groups."""
    if layout is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    for asked in NEEDS_MORE:
        if more.get(asked) is not None:
            raise Unpackable(f"its attention has a {asked}")
    heads, width = query.shape[1], query.shape[-1]
    q, k, v = (tensor[0].transpose(0, 1).to(value.dtype) for tensor in (query, key, value))

    def cells(tensor: Tensor, index: Tensor, sequences: int) -> Tensor:
        """[sequences, heads, cells, D]"""
        found = tensor.index_select(0, index).view(sequences, -1, *tensor.shape[1:]).transpose(1, 2)
        return found.repeat_interleave(heads // found.shape[1], 1) if found.shape[1] < heads else found

    outs = []
    for block in layout.blocks:
        asking, seen = cells(q, block.asking, block.sequences), [cells(x, block.seen, block.sequences) for x in (k, v)]
        outs.append(attended(asking, *seen, bias=block.bias, causal=block.causal, scale=scaling).view(-1, heads, width))
    return torch.cat(outs).index_select(0, layout.filled)[None], None


def attended(query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor, causal: bool, scale: float | None) -> Tensor:
    """softmax(scale q k' + bias) v: [N, queries, heads, D] from [N, heads, ..., D]."""
    if query.dtype == torch.bfloat16 and query.device.type == "cpu" and key.shape[2] <= SHORT:
        N, heads, queries, width = query.shape
        scale = width**-0.5 if scale is None else scale
        q, k, v = (tensor.reshape(N * heads, -1, width) for tensor in (query * scale, key, value))
        with torch.autocast("cpu", enabled=False):
            scores = torch.bmm(q, k.transpose(1, 2)).view(N, heads, queries, -1).add_(bias)
            out = torch.bmm(scores.softmax(-1).view(N * heads, queries, -1), v).view(N, heads, queries, width)
    elif causal:
        out = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
    else:
        out = scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)
    return out.transpose(1, 2).contiguous()
