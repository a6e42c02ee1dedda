"""Measures on an exact world, by enumeration of every response: no sampling error."""

from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from prefopt.evaluation.pairs import Figures
from prefopt.evaluation.subject import Score
from prefopt.models.exact import everything


@torch.no_grad()
def enumerated(world: Any, policy: Tensor, *, beta: float | None) -> Figures:
    """gold/reward, gold/win_rate over the reference (ties count half), gold/kl, coverage/off_data (the policy's mass on
    responses that no pair is of, in a world that has such), and, for a method with a price beta of KL, regret, of a
    policy that is given as [contexts, responses] log-probs in nats.

        regret = J(pi*) - J(pi),   J(pi) = E[r / T] - beta KL(pi || ref),   T the temperature of the world's labels
        pi* = ref exp(r / (T beta)) / Z,   J(pi*) = beta E[log Z]
    """
    policy = policy.cpu()
    p, r, ref = policy.exp(), world.rewards, world.reference
    reward = (p * r).sum(-1).mean()
    kl = (p * (policy - ref)).sum(-1).mean()
    win = (p * beaten(r, ref.exp())).sum(-1).mean()
    start = (ref.exp() * r).sum(-1).mean()
    figures = {"gold/reward": reward, "gold/reward_start": start, "gold/kl": kl, "gold/win_rate": win}
    if hasattr(world, "covered"):
        figures["coverage/off_data"] = p[:, ~world.covered].sum(-1).mean()
    if beta:
        best = beta * (ref + r / (world.temperature * beta)).logsumexp(-1).mean()
        figures["regret"] = best - (reward / world.temperature - beta * kl)
    return {name: float(value) for name, value in figures.items()}


def beaten(rewards: Tensor, law: Tensor) -> Tensor:
    """[C, R] how much of the law [C, R] each response is worth more than, and half of what is worth as much."""
    below, up_to = _masses(rewards, law)
    return (below + up_to) / 2


def best_law(logps: Tensor, proxy: Tensor, n: int) -> Tensor:
    """[C, R] log-probs in nats of the best by `proxy` of n draws, each from `logps`; equals share as they are drawn.

    P(y) = p(y) [ F(y)^n - G(y)^n ] / [ F(y) - G(y) ],   F, G: the chance of a proxy of at most, and below, that of y
    """
    below, up_to = _masses(proxy, logps.exp().clamp(min=torch.finfo(logps.dtype).tiny))
    share = (1 - below / up_to).clamp(1e-15, 1)
    return logps + (n - 1) * up_to.log() + (-torch.expm1(n * torch.log1p(-share)) / share).log()


def _masses(rewards: Tensor, law: Tensor) -> tuple[Tensor, Tensor]:
    """[C, R] each: how much of the law is on responses worth less than this one, and on those not worth more."""
    ranked, order = rewards.sort(-1)
    mass = torch.nn.functional.pad(law.gather(-1, order).cumsum(-1), (1, 0))
    below, up_to = (mass.gather(-1, torch.searchsorted(ranked, rewards, side=side)) for side in ("left", "right"))
    return below, up_to


@torch.no_grad()
def ranked(world: Any, score: Score, device: Any) -> Figures:
    """rank/spearman, of the rewards of all responses with the world's own, a mean over contexts; 0 where a reward is
    the same everywhere and ranks nothing."""
    rewards = score(everything(*world.rewards.shape).to(device))
    theirs, gold = (rankdata(each.cpu(), axis=-1) for each in (rewards, world.rewards))
    theirs, gold = (each - each.mean(-1, keepdims=True) for each in (theirs, gold))
    scale = np.sqrt((theirs**2).sum(-1) * (gold**2).sum(-1))
    return {"rank/spearman": float(((theirs * gold).sum(-1) / np.where(scale > 0, scale, 1)).mean())}


@torch.no_grad()
def parameter_error(world: Any, theta: Tensor) -> float:
    """|theta^ - theta*| of a log-linear reward, in units of the label's log-odds.

    theta: [d], the implied reward is <theta, phi>; theta* is the gold parameter over the labels' temperature.
    """
    return float((theta.cpu() - world.theta / world.temperature).norm())


def expected_error(world: Any, *, rate: float, pairs: int) -> float:
    """What theory expects of it: the root of trace(H^-1 V H^-1) / pairs, the unbiased estimator's asymptotic squared
    error. rate: of flips that are all alike.

        H = E[ p(1-p) x x^T ],   V = E[ q(1-q) / (1-2e)^2 x x^T ],   q = (1-2e) p + e,   x = phi(x, y) - phi(x, y')
    """
    phi = world.features
    x = (phi[:, :, None] - phi[:, None, :]).reshape(-1, phi.shape[-1])
    x = x[x.abs().sum(-1) > 0]
    p = (x @ (world.theta / world.temperature)).sigmoid()
    q = (1 - 2 * rate) * p + rate
    H = (p * (1 - p))[:, None, None] * x[:, :, None] * x[:, None, :]
    V = (q * (1 - q))[:, None, None] / (1 - 2 * rate) ** 2 * x[:, :, None] * x[:, None, :]
    inverse = H.mean(0).inverse()
    return float((torch.trace(inverse @ V.mean(0) @ inverse) / pairs).sqrt())
