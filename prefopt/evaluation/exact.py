"""Measures on an exact world, by enumeration of every response: no sampling error."""

from typing import Any

import torch
from torch import Tensor

from prefopt.evaluation.pairs import Figures


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
    below, alike = _masses(ref.exp(), r)
    win = (p * (below + 0.5 * alike)).sum(-1).mean()
    start = (ref.exp() * r).sum(-1).mean()
    figures = {"gold/reward": reward, "gold/reward_start": start, "gold/kl": kl, "gold/win_rate": win}
    if hasattr(world, "covered"):
        figures["coverage/off_data"] = p[:, ~world.covered].sum(-1).mean()
    if beta:
        best = beta * (ref + r / (world.temperature * beta)).logsumexp(-1).mean()
        figures["regret"] = best - (reward / world.temperature - beta * kl)
    return {name: float(value) for name, value in figures.items()}


@torch.no_grad()
def best_law(logps: Tensor, proxy: Tensor, n: int) -> Tensor:
    """[C, R] log-probs in nats of the best by `proxy` of n draws, each from `logps`; equals share as they are drawn.

    P(y) = p(y) / m(y) [ F(y)^n - (F(y) - m(y))^n ],   F, m: the chance of a proxy of at most, and of just y's
    """
    p = logps.exp().clamp(min=torch.finfo(logps.dtype).tiny)
    below, alike = _masses(p, proxy)
    at_most = below + alike
    share = (alike / at_most).clamp(max=1)
    return (p / alike).log() + n * at_most.log() + (-torch.expm1(n * torch.log1p(-share))).log()


def _masses(law: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """[C, R] each: how likely a response of a lower value is, and one of the same."""
    order = values.argsort(-1)
    ranked = values.gather(-1, order)
    level = torch.nn.functional.pad(ranked[:, 1:] > ranked[:, :-1], (1, 0)).cumsum(-1)
    alike = torch.zeros_like(law).scatter_add(-1, level, law.gather(-1, order))
    below = torch.nn.functional.pad(alike.cumsum(-1), (1, 0))[:, :-1]
    level = torch.empty_like(level).scatter(-1, order, level)
    return below.gather(-1, level), alike.gather(-1, level)


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
