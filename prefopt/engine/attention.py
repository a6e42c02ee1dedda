"""Attention over packed groups: prompts attend to themselves, responses to their prompt and to themselves.

It is an implementation of attention as transformers knows them, beside `sdpa`, for any model that lets its attention
be chosen. What is not packed, as in sampling, it leaves to `sdpa`.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.weak import WeakIdKeyDictionary

from prefopt.batch import Groups
from prefopt.engine.layout import Block, Layout, Packed, computing, packed, probe, rows

log = logging.getLogger(__name__)

NAME = "prefopt"
SHORT = 1024
"""Keys up to which scores are held whole in bfloat16 on a CPU, where torch's fused kernel takes twice the time."""
NEEDS_MORE = ("sliding_window", "softcap", "s_aux", "position_bias")
"""What some models ask of their attention, and is not done here."""

LIMITS = ("sliding_window", "attention_chunk_size")
"""What a configuration says where tokens do not see all before them."""
ROUNDING = 1e-4
"""How far apart, as a share of their norm, the probe's states may be in fp32."""

_packs: Any = WeakIdKeyDictionary()
_compiled: Any = WeakIdKeyDictionary()
"""How to run the transformers that torch compiles."""


def laid_out(backbone: Any, groups: Groups) -> Layout:
    """The best layout of groups that this transformer understands."""
    if backbone not in _packs:
        _packs[backbone] = _can_pack(backbone)
    if not _packs[backbone] or backbone.config._attn_implementation != NAME:
        return rows(groups)
    return packed(groups, computing(groups.prompt.device.type, backbone.dtype))


def states(backbone: Any, where: Layout, **more: Any) -> Any:
    """The transformer's output on a layout; its hidden states are [rows, L / rows, d]."""
    if not isinstance(where, Packed):
        return backbone(input_ids=where.tokens, use_cache=False, **more)
    ours = where.tokens.new_empty(1, 1, 1, 1)  # a mask of four dimensions keeps transformers from making its own
    run = _compiled.get(backbone, _run) if backbone in _packs else _run
    return run(
        backbone,
        input_ids=where.tokens,
        position_ids=where.positions,
        attention_mask=ours,
        use_cache=False,
        layout=where,
        **more,
    )


def compile_packed(backbone: Any) -> None:
    """Have torch compile this transformer for what is packed, once for all lengths of a number of blocks."""
    _compiled[backbone] = torch.compile(_run, dynamic=True)


def compiled(backbone: Any) -> bool:
    """Whether `compile_packed` was asked for it."""
    return backbone in _compiled


def _run(backbone: Any, **given: Any) -> Any:
    return backbone(**given)


class Unpackable(Exception):
    """The model asks more of its attention than is done here."""


@torch.no_grad()
def _can_pack(backbone: Any) -> bool:
    """Whether the transformer lets its attention be chosen, and has the same states packed as in rows. From then on its
    attention is the one here."""
    config = backbone.config
    if not getattr(backbone, "_supports_attention_backend", False) or config._attn_implementation not in ("sdpa", NAME):
        return False
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or any(getattr(config, limit, None) for limit in LIMITS):
        return False
    register()
    found, device = [], next(backbone.parameters()).device
    with torch.autocast(device.type, enabled=False):
        groups = probe(config.vocab_size).to(device)
        for name, where in (("sdpa", rows(groups)), (NAME, packed(groups, backbone.dtype))):
            config._attn_implementation = name
            try:
                found.append(states(backbone, where).last_hidden_state.flatten(0, 1)[where.before].float())
            except (Unpackable, TypeError, ValueError, RuntimeError, AttributeError) as error:
                log.debug("%s is not packed: %s", type(backbone).__name__, error)
                config._attn_implementation = "sdpa"
                return False
    apart = (found[0] - found[1]).norm() / found[0].norm()
    alike = bool(apart < (ROUNDING if backbone.dtype == torch.float32 else 256 * ROUNDING))
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
    if dropout:
        raise Unpackable("its attention has dropout")
    heads, width = query.shape[1], query.shape[-1]
    query = query * (width**-0.5 if scaling is None else scaling)
    outs = []
    for block, q, k, v in zip(
        layout.blocks,
        cells(query.to(value.dtype), layout.asking, [(block.sequences, block.asking) for block in layout.blocks]),
        *(
            cells(x.to(value.dtype), layout.seen, [(block.sequences, block.seen) for block in layout.blocks])
            for x in (key, value)
        ),
        strict=True,
    ):
        k, v = (x.repeat_interleave(heads // x.shape[1], 1) if x.shape[1] < heads else x for x in (k, v))
        outs.append(attended(q, k, v, block).reshape(-1, heads, width))
    return torch.cat(outs).index_select(0, layout.filled)[None], None


def cells(tensor: Tensor, index: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """[N, heads, cells, D] for each of the blocks' [N, cells], whose tokens in [1, heads, L, D] are at `index`."""
    found = tensor[0].transpose(0, 1).index_select(0, index).split([N * count for N, count in shapes])
    return [
        part.view(N, count, *part.shape[1:]).transpose(1, 2) for part, (N, count) in zip(found, shapes, strict=True)
    ]


def attended(query: Tensor, key: Tensor, value: Tensor, block: Block) -> Tensor:
    """softmax(q k' + bias) v: [N, queries, heads, D] from [N, heads, ..., D]."""
    if query.dtype == torch.bfloat16 and query.device.type == "cpu" and block.seen <= SHORT:
        N, heads, Q, width = query.shape
        q, k, v = (tensor.reshape(N * heads, -1, width) for tensor in (query, key, value))
        with torch.autocast("cpu", enabled=False):
            scores = torch.bmm(q, k.transpose(1, 2)).view(N, heads, Q, -1).add_(block.bias)
            out = torch.bmm(scores.softmax(-1).view(N * heads, Q, -1), v).view(N, heads, Q, width)
    elif block.causal:
        out = scaled_dot_product_attention(query, key, value, is_causal=True, scale=1.0)
    else:
        out = scaled_dot_product_attention(query, key, value, attn_mask=block.bias, scale=1.0)
    return out.transpose(1, 2)
