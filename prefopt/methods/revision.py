"""Asking a policy to revise an answer: the prompt and the answer together are the prompt of its revision."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prefopt.batch import Groups, Prompts
from prefopt.engine import layout
from prefopt.errors import PrefoptError


def requests(policy: Any, groups: Groups) -> Prompts:
    """[B n] requests to revise each of the groups' responses: the tokens of prompt and response, whose EOS parts the
    two from the revision. On an exact world with C contexts and R responses, context C + c R + y asks to revise y.

    Raises PrefoptError on an exact world without such contexts.
    """
    if hasattr(policy, "table"):
        contexts, responses = policy.reference.shape
        plain = contexts // (1 + responses)
        if plain * (1 + responses) != contexts:
            raise PrefoptError(
                f"this world has {contexts} contexts and {responses} responses, so none that ask for a revision",
                "use dataset=game, or text",
            )
        rows = plain + groups.prompt[:, :1, None] * responses + groups.response
        length = groups.length
    else:
        length = groups.prompt_length[:, None] + groups.length
        rows = layout.rows(groups).tokens.view(len(groups), groups.n, -1)
    return Prompts(
        index=groups.index.repeat_interleave(groups.n),
        prompt=rows.flatten(0, 1),
        prompt_length=length.flatten(),
        response=rows.new_zeros(length.numel(), 0, 0),
        length=length.new_zeros(length.numel(), 0),
        mean_length=torch.zeros((), device=rows.device),
    )


def revised_logps(policy: Any, groups: Groups) -> Tensor:
    """[B, n, n] summed log-probs in nats of each response (last) as a revision of each (middle)."""
    asked, n = requests(policy, groups), groups.n
    answered = Groups(
        index=asked.index,
        prompt=asked.prompt,
        prompt_length=asked.prompt_length,
        response=groups.response.repeat_interleave(n, 0),
        length=groups.length.repeat_interleave(n, 0),
        mean_length=groups.mean_length,
    )
    summed: Tensor = policy.logps(answered).sum(-1)
    return summed.view(len(groups), n, n)


def revised(policy: Any, groups: Groups, generator: torch.Generator | None = None) -> Groups:
    """The same prompts, each response revised once by the policy."""
    better: Groups = policy.sample(requests(policy, groups), 1, generator)
    length = better.length.view(groups.length.shape)
    response = better.response.view(len(groups), groups.n, -1)
    return replace(groups, response=response, length=length, mean_length=length.float().mean(), reference=None)
