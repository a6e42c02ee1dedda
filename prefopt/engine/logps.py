"""The one place where log-probs are computed."""

from typing import Any

import torch
from torch import Tensor

from prefopt.batch import Groups


def rows_of(groups: Groups) -> tuple[Tensor, Tensor]:
    """Every prompt followed by each of its responses: [B, n, W] token ids, right-padded, and [B, n, T] where in its
    row each response token stands."""
    prompt_length = groups.prompt_length[:, None, None]
    steps = torch.arange(groups.response.shape[-1], device=groups.response.device)
    where = (prompt_length + steps).expand(groups.response.shape)  # scatter_ does not broadcast
    width = groups.prompt.shape[1] + groups.response.shape[-1]
    rows = groups.prompt.new_zeros(len(groups), groups.n, width)
    rows[..., : groups.prompt.shape[1]] = groups.prompt[:, None]
    rows.scatter_(-1, where, groups.response * groups.mask)
    return rows[..., : int((prompt_length[..., 0] + groups.length).max())], where


def token_logps(model: Any, groups: Groups) -> Tensor:
    """log pi(token | prompt, response so far) in nats: [B, n, T] in fp32, zero outside the response.

    model: a transformers causal LM. Rows are padded at the right, so that under causal attention no real token sees
    the padding and no attention mask is needed; the head meets response positions only.
    """
    mask, logits = groups.mask, response_logits(model, groups)
    logps = logits.gather(-1, groups.response[mask][:, None])[:, 0] - logits.logsumexp(-1)
    return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, logps)


@torch.no_grad()
def token_collisions(model: Any, groups: Groups) -> Tensor:
    """log sum_v pi(v | prompt, response so far)^2 in nats, the log-probability that two draws of the token agree:
    [B, n, T] in fp32, zero outside the response."""
    mask, logits = groups.mask, response_logits(model, groups)
    agree = (2 * logits).logsumexp(-1) - 2 * logits.logsumexp(-1)
    return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, agree)


def response_logits(model: Any, groups: Groups) -> Tensor:
    """[M, V] logits in fp32 at the M response tokens, as `groups.mask` orders them."""
    rows, where = rows_of(groups)
    hidden = backbone(model)(input_ids=rows.flatten(0, 1), use_cache=False).last_hidden_state
    mask = groups.mask
    row, position = torch.arange(mask[..., 0].numel(), device=mask.device).view(mask.shape[:2]), where - 1
    return head(model, hidden[row[..., None].expand_as(mask)[mask], position[mask]])


def pooled_states(model: Any, groups: Groups) -> Tensor:
    """[B, n, d] mean of the last layer's states over the tokens of each response."""
    rows, _ = rows_of(groups)
    hidden = backbone(model)(input_ids=rows.flatten(0, 1), use_cache=False).last_hidden_state
    steps = torch.arange(rows.shape[-1], device=rows.device)
    first = groups.prompt_length[:, None, None]
    inside = (steps >= first) & (steps < first + groups.length[..., None])
    states = hidden.view(*rows.shape, -1)
    return (states * inside[..., None]).sum(2) / groups.length[..., None]


def backbone(model: Any) -> Any:
    """The transformer below the language-model head, with whatever adapters were put into it."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner.base_model


def head(model: Any, states: Tensor) -> Tensor:
    """[M, d] hidden states to [M, V] logits in fp32."""
    logits = model.get_output_embeddings()(states).float()
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)
