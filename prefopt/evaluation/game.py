"""Measures on a preference game, by enumeration: there is no reward, and the solution is known all the same."""

from typing import Any

import torch
from torch import Tensor

from prefopt.evaluation.pairs import Figures


@torch.no_grad()
def played(world: Any, policy: Tensor, *, beta: float | None) -> Figures:
    """gold/win_rate over the reference, gold/kl, the policy itself as game/policy/<y> (a mean over contexts), and
    game/distance, the total variation to the generative solution, for a method with a price beta of KL. policy:
    [contexts, responses] log-probs in nats; of those contexts the first ones ask for an answer, not for a revision.
    """
    contexts = len(world.preferences)
    logps, ref = policy.cpu()[:contexts], world.reference[:contexts]
    p = logps.exp()
    figures = {
        "gold/win_rate": (p * world.rewards).sum(-1).mean(),
        "gold/kl": (p * (logps - ref)).sum(-1).mean(),
        **{f"game/policy/{y}": share for y, share in enumerate(p.mean(0))},
    }
    if beta:
        figures["game/distance"] = (p - solution(world, beta)[0]).abs().sum(-1).mean() / 2
    return {name: float(value) for name, value in figures.items()}


def solution(world: Any, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """pi* [C, R], pi+* [C, R, R] (rows are revised) and log Z* [C, R] of (Choi et al., 2024, arXiv 2406.01660)

    pi+*(y' | y) = ref(y' | y) exp( p(y' > y) / beta ) / Z*(y),   pi*(y) proportional to ref(y) / Z*(y)
    """
    contexts, responses, _ = world.preferences.shape
    ref = world.reference[:contexts]
    again = world.reference[contexts:].view(contexts, responses, responses)
    unnormalised = again + world.preferences.transpose(1, 2) / beta
    log_z = unnormalised.logsumexp(-1)
    return (ref - log_z).softmax(-1), unnormalised.softmax(-1), log_z
