"""The one place where log-probs are computed."""

from typing import Any

import torch
from torch import Tensor

from prefopt.batch import Groups
from prefopt.engine.attention import laid_out, states
from prefopt.engine.head import collisions, selected
from prefopt.engine.layout import Layout


def token_logps(model: Any, groups: Groups) -> Tensor:
    """log pi(token | prompt, response so far) in nats: [B, n, T] in fp32, zero outside the response.

    model: a transformers causal LM. A prompt is computed once for all its responses, nothing is padded where the model
    allows it, and the head meets response positions only.
    """
    hidden, where = response_states(model, groups)
    return spread(selected(model, hidden, where.tokens.flatten()[where.own]), groups)


@torch.no_grad()
def token_collisions(model: Any, groups: Groups) -> Tensor:
    """log sum_v pi(v | prompt, response so far)^2 in nats, the log-probability that two draws of the token agree:
    [B, n, T] in fp32, zero outside the response."""
    hidden, _ = response_states(model, groups)
    return spread(collisions(model, hidden), groups)


def response_states(model: Any, groups: Groups) -> tuple[Tensor, Layout]:
    """[M, d] states of the last layer that predict the M response tokens, in the order of `groups.mask`."""
    inner = backbone(model)
    where = laid_out(inner, groups)
    return states(inner, where).last_hidden_state.flatten(0, 1).index_select(0, where.before), where


def spread(values: Tensor, groups: Groups) -> Tensor:
    """[B, n, T] of [M] values of the response tokens, zero elsewhere."""
    return values.new_zeros(groups.response.shape).masked_scatter(groups.mask, values)


def pooled_states(model: Any, groups: Groups) -> Tensor:
    """[B, n, d] mean of the last layer's states over the tokens of each response."""
    inner = backbone(model)
    where = laid_out(inner, groups)
    hidden = states(inner, where).last_hidden_state.flatten(0, 1).index_select(0, where.own)
    row = torch.arange(groups.length.numel(), device=hidden.device)
    row = row.repeat_interleave(groups.length.flatten(), output_size=len(hidden))
    sums = hidden.new_zeros(groups.length.numel(), hidden.shape[-1]).index_add(0, row, hidden)
    return sums.view(*groups.length.shape, -1) / groups.length[..., None]


def last_states(model: Any, groups: Groups) -> tuple[Tensor, Tensor]:
    """[B * n, d] the last layer's state at the end of each response, and [B, d] at the end of each prompt."""
    inner = backbone(model)
    where = laid_out(inner, groups)
    hidden = states(inner, where).last_hidden_state.flatten(0, 1)
    return hidden.index_select(0, where.last), hidden.index_select(0, where.asked)


def backbone(model: Any) -> Any:
    """The transformer below the language-model head, with whatever adapters were put into it."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner.base_model
