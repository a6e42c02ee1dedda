"""The picture of over-optimisation: what a proxy says of answers, and what is true of them (Gao et al., 2023, arXiv
2210.10760).

Gold and proxy reward are each standardised under the answers of the policy's start, so that both have mean 0 and
standard deviation 1 there.
"""

from collections.abc import Mapping

from torch import Tensor

from prefopt.engine.best import best_of_n, kl_of_best, sizes
from prefopt.evaluation.exact import best_law
from prefopt.evaluation.pairs import Figures, standard_error
from prefopt.models.scorer import constant, spread

Rewards = Mapping[str, Tensor]
"""`gold`, where the world has one, and `proxy`, where the run has one: of the same answers."""


def standardised(rewards: Rewards, start: Rewards, law: Tensor | None = None) -> Rewards:
    """Rewards less the mean of the start's answers, over their standard deviation; without one that is the same for all
    of them, as that of a verifier may be.

    law: how often each of the start's answers comes up, None where all do alike. Raises PrefoptError where a reward is
    not finite.
    """
    scales = {name: spread(r, law) for name, r in start.items() if not constant(r)}
    return {name: (rewards[name] - mean) / sd for name, (mean, sd) in scales.items()}


def enumerated_standardised(policy: Tensor, rewards: Rewards) -> Figures:
    """gold/standardised and proxy/standardised of a policy [C, R] in nats, from standardised rewards [C, R]."""
    return {f"{name}/standardised": _expected(policy, r) for name, r in rewards.items()}


def sampled_standardised(rewards: Rewards) -> Figures:
    """The same of answers, from their standardised rewards [P, 1], with standard errors."""
    figures: Figures = {}
    for name, r in rewards.items():
        figures[f"{name}/standardised"] = float(r.mean())
        figures[f"{name}/standardised_se"] = standard_error(r[:, 0].numpy())
    return figures


def enumerated_curve(start: Tensor, by: Tensor, rewards: Rewards, N: int) -> Figures:
    """best_of/<n>/gold and best_of/<n>/proxy of the best by `by` [C, R] of n answers of the start [C, R] in nats, and
    best_of/<n>/kl to it, for n = 1, 2, 4 .. N."""
    figures: Figures = {}
    for n in sizes(N):
        law = best_law(start, by, n)
        figures |= {f"best_of/{n}/{name}": _expected(law, r) for name, r in rewards.items()}
        figures[f"best_of/{n}/kl"] = _expected(law, law - start)
    return figures


def sampled_curve(by: Tensor, rewards: Rewards) -> Figures:
    """The same from N samples a prompt, without bias: `by` and rewards are [P, N], and best_of/<n>/kl_bound is the most
    that the KL can be."""
    figures: Figures = {}
    for n in sizes(by.shape[-1]):
        figures |= {f"best_of/{n}/{name}": float(best_of_n(by, r, n).mean()) for name, r in rewards.items()}
        figures[f"best_of/{n}/kl_bound"] = kl_of_best(n)
    return figures


def _expected(policy: Tensor, values: Tensor) -> float:
    return float((policy.exp() * values).sum(-1).mean())
