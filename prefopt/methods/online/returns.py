"""What PPO makes of a rollout: pure functions of token columns [..., T] and their mask, detached from everything."""

import torch
from torch import Tensor


def kl_rewards(logps: Tensor, reference: Tensor, score: Tensor, mask: Tensor, beta: float) -> Tensor:
    """-beta (logp - ref) at every token, and the score [...] at the last one; zero outside the mask."""
    places = torch.arange(mask.shape[-1], device=mask.device)
    last = places == mask.sum(-1, keepdim=True) - 1
    return (-beta * (logps - reference) + last * score[..., None]) * mask


def gae(reward: Tensor, value: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95) -> tuple[Tensor, Tensor]:
    """Generalised advantages and returns; nothing is bootstrapped after a response's last token."""
    reward, value = reward * mask, value * mask
    following = torch.cat([value[..., 1:], torch.zeros_like(value[..., :1])], -1)
    delta = reward + gamma * following - value
    advantage, ahead = torch.zeros_like(delta), torch.zeros_like(delta[..., 0])
    for t in reversed(range(delta.shape[-1])):
        ahead = delta[..., t] + gamma * lam * ahead
        advantage[..., t] = ahead
    return advantage, advantage + value


def whitened(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """The masked values with population variance 1, and mean 0 or (`shift_mean` false) the mean that they had."""
    seen = values[mask]
    white = (values - seen.mean()) / (seen.var(correction=0) + 1e-8).sqrt()
    return (white if shift_mean else white + seen.mean()) * mask


def explained(value: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """The share of the returns' variance that the values account for; below 0 where they are worse than a constant."""
    return 1 - (returns - value)[mask].var(correction=0) / returns[mask].var(correction=0).clamp(min=1e-8)


def adaptive(beta: float, kl: float, *, target: float, episodes: int, horizon: int) -> float:
    """The KL weight after `episodes` responses of mean KL `kl` nats: up where it is above the target, else down, by a
    fifth at most."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * min(episodes / horizon, 1))
