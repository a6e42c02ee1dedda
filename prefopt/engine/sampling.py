"""Sampling responses from a causal LM, reproducibly: the generator is the only source of randomness."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from prefopt.batch import Groups


@torch.no_grad()
def sample(
    model: nn.Module, prompts: Groups, n: int, *, max_length: int, eos: int, generator: torch.Generator | None = None
) -> Groups:
    """n responses of at most `max_length` tokens to each prompt, at temperature 1, every token's law being the model's.

    Returns groups [B, n, T]; a response that reached EOS ends with it. The rows are decoded together, on a key-value
    cache, with prompts padded at the left.
    """
    device = prompts.prompt.device
    width = int(prompts.prompt_length.max())
    shift = width - prompts.prompt_length
    steps = torch.arange(width, device=device)
    attend = (steps >= shift[:, None]).repeat_interleave(n, 0)
    inputs = prompts.prompt.gather(1, (steps - shift[:, None]).clamp(min=0)).repeat_interleave(n, 0)
    position = (attend.long().cumsum(1) - 1).clamp(min=0)

    responses: list[Tensor] = []
    running = torch.ones(len(inputs), dtype=torch.bool, device=device)
    lengths = torch.zeros(len(inputs), dtype=torch.long, device=device)
    cache = None
    for _ in range(max_length):
        out = model(
            input_ids=inputs,
            attention_mask=attend,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        token = draw(out.logits[:, -1].float().log_softmax(-1), generator) * running
        responses.append(token)
        lengths += running
        running = running & (token != eos)
        if not running.any():
            break
        inputs, position = token[:, None], position[:, -1:] + 1
        attend = torch.cat([attend, attend.new_ones(len(attend), 1)], 1)
    length = lengths.view(len(prompts), n)
    return replace(
        prompts,
        response=torch.stack(responses, -1).view(len(prompts), n, -1),
        length=length,
        mean_length=length.float().mean(),
        reference=None,
    )


def draw(logps: Tensor, generator: torch.Generator | None) -> Tensor:
    """One index a row of [..., V] log-probs (the Gumbel-max rule); the noise is drawn on the generator's device."""
    uniform = torch.rand(logps.shape, generator=generator, device="cpu" if generator is None else generator.device)
    gumbel = -torch.log(-torch.log(uniform.clamp(min=1e-20, max=1 - 1e-7)))
    return (logps + gumbel.to(logps.device)).argmax(-1)
