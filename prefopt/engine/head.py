"""From hidden states to log-probs of given tokens, without the whole [tokens, vocabulary] at once."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from prefopt.engine.layout import computing

CHUNK = 2**22
"""Logits that are worked on together."""
KEPT = 2**24
"""Logits that are kept for the backward pass; where there are more, each chunk is computed again."""

CHANGES = ("logit_scale", "logits_scaling", "final_logit_softcapping")
"""What a configuration says where logits are not the head's alone."""


def logits(model: Any, states: Tensor) -> Tensor:
    """[M, d] hidden states to [M, V] logits in fp32, scaled and capped as the model's configuration says."""
    config = model.config
    found = model.get_output_embeddings()(states).float()
    found = found * (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return found if cap is None else cap * torch.tanh(found / cap)


def selected(model: Any, states: Tensor, tokens: Tensor) -> Tensor:
    """[M] log pi(token) in nats, in fp32, from [M, d] hidden states and [M] token ids."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or any(getattr(model.config, change, None) is not None for change in CHANGES):
        parts = zip(states.split(rows_at_once(model)), tokens.split(rows_at_once(model)), strict=True)
        return torch.cat([checkpoint(_selected, model, *part, use_reentrant=False) for part in parts])
    dtype = computing(states.device.type, head.weight.dtype)
    bias = None if head.bias is None else head.bias.to(dtype)
    keep = torch.is_grad_enabled() and len(states) * len(head.weight) <= KEPT
    found: Tensor = Selected.apply(states.to(dtype), head.weight.to(dtype), bias, tokens, keep)
    return found


def _selected(model: Any, states: Tensor, tokens: Tensor) -> Tensor:
    whole = logits(model, states)
    return whole.gather(-1, tokens[:, None])[:, 0] - whole.logsumexp(-1)


@torch.no_grad()
def collisions(model: Any, states: Tensor) -> Tensor:
    """[M] log sum_v pi(v)^2 in nats, from [M, d] hidden states."""

    def agree(z: Tensor) -> Tensor:
        return (2 * z).logsumexp(-1) - 2 * z.logsumexp(-1)

    return torch.cat([agree(logits(model, part)) for part in states.split(rows_at_once(model))])


def rows_at_once(model: Any) -> int:
    """How many tokens' logits are worked on together."""
    return max(1, CHUNK // model.config.vocab_size)


class Selected(torch.autograd.Function):
    """log softmax(states weight' + bias)[token], and its gradient weight[token] - softmax weight, in chunks of rows."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor, keep: bool) -> Tensor:
        size = max(1, CHUNK // len(weight))
        kept, found, norms = [], [], []
        for h, y in zip(states.split(size), tokens.split(size), strict=True):
            z = torch.nn.functional.linear(h, weight, bias)
            whole = z.float()
            norm = whole.logsumexp(-1)
            found.append(whole.gather(-1, y[:, None])[:, 0] - norm)
            norms.append(norm)
            if keep:
                kept.append(z)
        ctx.size = size
        ctx.save_for_backward(states, weight, bias, tokens, torch.cat(norms), *kept)
        return torch.cat(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, tokens, norms, *kept = ctx.saved_tensors
        of_states, of_weight, of_bias = ctx.needs_input_grad[:3]
        into_states = torch.empty_like(states) if of_states else None
        into_weight = torch.zeros_like(weight, dtype=torch.float32) if of_weight else None
        into_bias = torch.zeros_like(bias, dtype=torch.float32) if of_bias else None
        parts = (tensor.split(ctx.size) for tensor in (states, tokens, norms, gradient))
        for i, (h, y, norm, g) in enumerate(zip(*parts, strict=True)):
            z = kept[i] if kept else torch.nn.functional.linear(h, weight, bias)
            p = (z.float() - norm[:, None]).exp_().mul_(-g[:, None])
            p.scatter_add_(1, y[:, None], g[:, None])
            p = p.to(weight.dtype)
            if into_states is not None:
                torch.mm(p, weight, out=into_states[i * ctx.size : i * ctx.size + len(h)])
            if into_weight is not None:
                into_weight += p.T @ h
            if into_bias is not None:
                into_bias += p.sum(0)
        return (
            into_states,
            None if into_weight is None else into_weight.to(weight.dtype),
            None if into_bias is None else into_bias.to(weight.dtype),
            None,
            None,
        )
