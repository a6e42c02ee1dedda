"""Whole next-token laws of a policy and its reference, of which no more than a chunk is ever there at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from prefopt.batch import Groups
from prefopt.engine import attention
from prefopt.engine.logps import backbone

CHUNK = 2048
"""Tokens whose distributions over the vocabulary are held together."""

Law = Callable[[Tensor], Tensor]
"""[M, d] hidden states to [M, V] logits."""


def response_states(model: Any, groups: Groups, *, last: bool = False) -> Tensor:
    """[blocks, M, d] hidden states that predict the M response tokens, in the order of `groups.mask`: after each block,
    or after the `last` one alone. They see the prompt and the tokens before, never the token itself."""
    inner = backbone(model)
    where = attention.laid_out(inner, groups)
    out = attention.states(inner, where, output_hidden_states=not last)
    blocks = (out.last_hidden_state,) if last else out.hidden_states[1:]
    return torch.stack([block.flatten(0, 1).index_select(0, where.before) for block in blocks])


@torch.no_grad()
def activations(model: Any, groups: Groups) -> Tensor:
    """[sites, M] means over the hidden units, at the positions of `response_states`: of every projection of attention
    and feed-forward layers, and of the stream after each block."""
    inner = backbone(model)
    where = attention.laid_out(inner, groups)
    found: list[Tensor] = []

    def take(module: Any, inputs: Any, output: Any) -> None:
        if output.shape[:2] == where.tokens.shape:  # an expert sees some tokens only
            found.append(output.mean(-1))

    sites = [m for m in inner.modules() if not list(m.children()) and getattr(m, "weight", torch.empty(0)).ndim == 2]
    handles = [m.register_forward_hook(take) for m in sites if not isinstance(m, torch.nn.Embedding)]
    try:
        hidden = attention.states(inner, where, output_hidden_states=True).hidden_states
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(
        [site.flatten().index_select(0, where.before) for site in (*found, *(h.mean(-1) for h in hidden[1:]))]
    )


def compared(
    states: Tensor, law: Law, reference_states: Tensor, reference_law: Law, tokens: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """[M] log pi(token), [M] log ref(token) and [M] KL(ref || pi) over the vocabulary, in nats.

    states, reference_states: [M, d]. tokens: [M] ids. The reference has no gradient. For the backward pass only the
    states are kept, and each chunk's logits are computed again.
    """

    def chunk(s: Tensor, r: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pi = law(s).log_softmax(-1)
        with torch.no_grad():
            ref = reference_law(r).log_softmax(-1)
        own, other = (values.gather(-1, y[:, None])[:, 0] for values in (pi, ref))
        return own, other, (ref.exp() * (ref - pi)).sum(-1)

    parts = zip(*(values.split(CHUNK) for values in (states, reference_states, tokens)), strict=True)
    found = [checkpoint(chunk, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    own, other, kl = (torch.cat(values) for values in zip(*found, strict=True))
    return own, other, kl
