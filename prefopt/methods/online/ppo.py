"""Proximal policy optimisation from a reward (Ziegler et al., 2019, arXiv 1909.08593).

    r_t = -beta (log pi_old(y_t) - log ref(y_t)) + 1[last] score,    score = (r - mean) / sd - missing_eos 1[no EOS]
    A_t = sum_k (gamma lam)^k delta_t+k,    delta_t = r_t + gamma V_t+1 - V_t,    R_t = A_t + V_t
    l_t = -min( rho_t A_t, clip(rho_t, 1 - low, 1 + high) A_t ),    rho_t = pi(y_t) / pi_old(y_t),    A whitened
    v_t = max( (V_t - R_t)^2, (clip(V_t, V_old_t +- reach) - R_t)^2 ) / 2
    L   = mean of l_t + vf_coef v_t    over all response tokens of a batch

A, R and V_old are of the policy and the critic that sampled, and A is whitened over all tokens of a round. The critic
reads V_t before token t, on a trunk of its own that starts as the policy's. Mean and sd are those of the reward on the
first round's responses, which are the reference's. Sampling is at temperature 1. Of what others add (Huang et al.,
2024, arXiv 2403.17031) there is neither an entropy bonus nor an early stop of the passes.
"""

import math

import torch
from torch import Tensor

from prefopt.batch import Groups, Rollouts
from prefopt.errors import PrefoptError
from prefopt.methods.base import Method
from prefopt.methods.metrics import Metrics
from prefopt.methods.online.clipping import clip_surrogate, clip_value
from prefopt.methods.online.returns import adaptive, explained, gae, kl_rewards, whitened
from prefopt.methods.rollout import joined, sampled, table_of
from prefopt.models.ensemble import Aggregate
from prefopt.models.scorer import finite, mean, moments
from prefopt.table import Table


class PPO(Method):
    """Args: samples: responses a prompt. prompts: B of a round. passes: over a round's samples.
    beta: price of a nat of KL, in units of the score. target_kl: nats a response that beta is steered to, by a fifth
    in `horizon` responses at most; None leaves beta as it is. low, high: clip range of the ratio. reach: of the value.
    vf_coef: weight of the critic's loss. gamma, lam: of the advantages. normalise: whether the reward is put to mean 0
    and sd 1, else it is taken as it is. missing_eos: what a response that was cut off loses, in units of the score.
    whiten_rewards: bring the token rewards of a round to variance 1. critic_lr: None for that of the policy.
    aggregate: of a reward model's members, [k, ...] -> [...].

    price, scale: beta as it is now, and the reward's mean and sd. kl, explained: of the newest round, nats a response,
    and the share of the returns' variance that the critic foresaw.

    Raises PrefoptError where a number is out of its range, where a reward is not finite, and where all that are to be
    normalised are the same.
    """

    eats = Rollouts
    roles = ("policy", "reward", "reference")
    price: Tensor
    scale: Tensor
    kl: Tensor
    explained: Tensor

    def __init__(
        self,
        *,
        samples: int = 4,
        prompts: int = 64,
        passes: int = 4,
        beta: float = 0.05,
        target_kl: float | None = None,
        horizon: int = 10000,
        low: float = 0.2,
        high: float = 0.2,
        reach: float = 0.2,
        vf_coef: float = 0.1,
        gamma: float = 1.0,
        lam: float = 0.95,
        normalise: bool = True,
        missing_eos: float = 1.0,
        whiten_rewards: bool = False,
        critic_lr: float | None = None,
        aggregate: Aggregate = mean,
    ) -> None:
        super().__init__()
        for name, value, most in (
            *(("beta", beta, math.inf), ("vf_coef", vf_coef, math.inf), ("missing_eos", missing_eos, math.inf)),
            *(
                ("gamma", gamma, 1),
                ("lam", lam, 1),
                ("low", low, 1),
                ("high", high, math.inf),
                ("reach", reach, math.inf),
            ),
        ):
            if not (0 <= value <= most and math.isfinite(value)):
                raise PrefoptError(f"method.{name}={value} is out of range", f"give a number from 0 to {most}")
        for name, count in (("samples", samples), ("prompts", prompts), ("passes", passes), ("horizon", horizon)):
            if count < 1:
                raise PrefoptError(f"method.{name}={count} is too few", "give at least 1")
        if target_kl is not None and not target_kl > 0:
            raise PrefoptError(f"method.target_kl={target_kl} is no KL to steer to", "give a positive number, or null")
        self.samples, self.per_round, self.passes = samples, prompts, passes
        self.target_kl, self.episodes, self.horizon = target_kl, samples * prompts, horizon
        self.low, self.high, self.reach, self.vf_coef = low, high, reach, vf_coef
        self.gamma, self.lam, self.missing_eos, self.aggregate = gamma, lam, missing_eos, aggregate
        self.normalise, self.whiten_rewards, self.critic_lr = normalise, whiten_rewards, critic_lr
        self.beta = None if normalise or target_kl else beta  # regret is in the reward's own units
        for name, start in (("price", beta), ("scale", (0.0, 1.0)), ("kl", 0.0), ("explained", 0.0)):
            self.register_buffer(name, torch.tensor(start, dtype=torch.float64))

    def _extend(self) -> None:
        self.critic = self.policy.critic()
        if self.critic_lr is not None:
            self.critic.optimizer_options = {"lr": self.critic_lr}

    @torch.no_grad()
    def collect(self, data: Table, round: int) -> Table:
        rows, parts = sampled(self, data, round, self.samples)
        if round == 0 and self.normalise:
            self.scale.copy_(torch.tensor(moments(self.reward, parts), dtype=torch.float64))
        mask = joined([groups.mask for groups in parts])
        behaviour, reference, value = (
            joined([of(groups) for groups in parts]) for of in (self.policy.logps, self.reference_logps, self.critic)
        )
        reward = finite(torch.cat([self.reward.score(groups) for groups in parts]).to(behaviour))
        finished = torch.cat([self.policy.finished(groups) for groups in parts])
        score = (reward - self.scale[0]) / self.scale[1] - self.missing_eos * ~finished

        rewards = kl_rewards(behaviour, reference, score, mask, float(self.price))
        if self.whiten_rewards:
            rewards = whitened(rewards, mask, shift_mean=False)
        advantage, returns = gae(rewards, value, mask, self.gamma, self.lam)
        self.kl.copy_((behaviour - reference).sum(-1).mean())
        self.explained.copy_(explained(value, returns, mask))
        return table_of(
            Rollouts,
            data.ids[rows],
            parts,
            columns={"reward": reward, "finished": finished},
            aligned={
                "behaviour": behaviour[mask],
                "reference": reference[mask],
                "value": value[mask],
                "returns": returns[mask],
                "advantage": whitened(advantage, mask)[mask],
            },
        )

    def loss(self, batch: Rollouts) -> tuple[Tensor, Metrics]:
        logps, value = self.policy.logps(batch), self.critic(batch)
        surrogate, clipped = clip_surrogate(logps, batch.behaviour, batch.advantage, self.low, self.high)
        error, held = clip_value(value, batch.value, batch.returns, self.reach)
        losses = ((surrogate + self.vf_coef * error) * batch.mask).sum((1, 2)) / (batch.n * batch.mean_length)
        return losses, self._metrics(batch, logps.detach(), error.detach(), clipped, held)

    def _metrics(self, batch: Rollouts, logps: Tensor, error: Tensor, clipped: Tensor, held: Tensor) -> Metrics:
        """Of the values' errors and where losses are clipped, [B, n, T]; what is of tokens is a mean over an example's.
        Scores, KL and entropy, in nats, are of the policy that sampled."""

        def a_token(values: Tensor) -> Tensor:
            return (values * batch.mask).sum((1, 2)) / batch.length.sum(1)

        metrics = {
            "objective/scores": batch.reward.mean(1),
            "objective/unfinished": 1 - batch.finished.double().mean(1),
            "objective/length": batch.length.double().mean(1),
            "objective/price": self.price,
            "policy/approx_kl": a_token(0.5 * (logps - batch.behaviour) ** 2),
            "policy/entropy": a_token(-batch.behaviour),
            "clip/fraction": a_token(clipped),
            "clip/value": a_token(held),
            "critic/loss": a_token(error),
            "critic/explained": self.explained,
        }
        if batch.reference is not None:
            metrics["objective/kl"] = (batch.behaviour - batch.reference).sum(-1).mean(1)
        return metrics

    def _clipped(self, most: float) -> Tensor:
        """Policy and critic apart: a critic that is far off would mute the policy."""
        return torch.stack([self._clipped_part(part, most) for part in (self.policy, self.critic)]).norm()

    def finish(self, round: int) -> None:
        if self.target_kl is not None:
            price, kl = float(self.price), float(self.kl)
            self.price.fill_(adaptive(price, kl, target=self.target_kl, episodes=self.episodes, horizon=self.horizon))

    def score(self, groups: Groups) -> Tensor:
        return self.reward.score(groups)
