"""Measures on a preference game, by enumeration: there is no reward, and the solution is known all the same."""

from typing import Any

import torch
from torch import Tensor

from prefopt.evaluation.pairs import Figures


@torch.no_grad()
def played(world: Any, policy: Tensor, *, beta: float | None, average: Tensor | None = None) -> Figures:
    """gold/win_rate over the reference, gold/kl, the policy itself as game/policy/<y> (a mean over contexts), and
    game/distance, the total variation to the generative solution, for a method with a price beta of KL.

    How far a policy is from an equilibrium is what the best answer to it wins, in every context: gap/last in log-odds,
    exploitability/last as a win rate over 1/2. gap/average and exploitability/average are of the average policy of the
    rounds, which is game/average/<y>; for a method without such, of its one policy.

    policy, average: [contexts, responses] log-probs in nats; of those contexts the first ones ask for an answer, not
    for a revision.
    """
    contexts = len(world.preferences)
    logps, ref = policy.cpu()[:contexts], world.reference[:contexts]
    p = logps.exp()
    figures = {
        "gold/win_rate": (p * world.rewards).sum(-1).mean(),
        "gold/kl": (p * (logps - ref)).sum(-1).mean(),
        **{f"game/policy/{y}": share for y, share in enumerate(p.mean(0))},
        **beaten(world, p, "last"),
    }
    if beta:
        figures["game/distance"] = (p - solution(world, beta)[0]).abs().sum(-1).mean() / 2
    if average is not None:
        p = average.cpu()[:contexts].exp()
        figures |= {f"game/average/{y}": share for y, share in enumerate(p.mean(0))}
    figures |= beaten(world, p, "average")
    return {name: float(value) for name, value in figures.items()}


def beaten(world: Any, policy: Tensor, name: str) -> dict[str, Tensor]:
    """Means over contexts of max_y E[ log-odds of y > z ] and max_y E[ p(y > z) ] - 1/2 over z ~ policy [C, R]."""
    payoffs = {"gap": world.odds, "exploitability": world.preferences - 0.5}
    return {f"{kind}/{name}": (table @ policy[..., None]).amax((1, 2)).mean() for kind, table in payoffs.items()}


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
