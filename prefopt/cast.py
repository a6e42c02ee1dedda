"""Who plays which role: policies, references, reward models and judges, from the config's `needs`."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefopt.batch import Groups
from prefopt.config import made
from prefopt.datasets.data import Data
from prefopt.engine.loader import sequential
from prefopt.methods.base import Method
from prefopt.models.causal import AdapterOff, frozen_copy
from prefopt.models.ensemble import Ensemble, opened
from prefopt.models.judge import Judge
from prefopt.models.model import Gold, GoldOfGroup
from prefopt.models.scorer import Scorer, moments
from prefopt.noise.base import Noise

GROUPS = "groups"
"""The need of a reward that is the gold ones of the world's groups, as an ensemble."""
SCALE_PROMPTS, SCALE_RESPONSES = 256, 8
"""Samples of the reference policy that an ensemble's members are put on one scale by."""


class Implied(Scorer):
    """The reward that a trained policy implies, as its own method has it, over the policy that it began as."""

    def __init__(self, method: Method, policy: Any, reference: Any) -> None:
        self.method, method.policy, method.reference = method, policy, reference

    def score(self, groups: Groups) -> Tensor:
        return self.method.score(replace(groups, reference=None))


def cast(
    method: Method,
    needs: Mapping[str, Any],
    *,
    model: Any,
    data: Data,
    tokenizer: Any,
    start: Path | None,
    places: Mapping[str, Path],
    implied: Mapping[str, tuple[Method, Path | None]],
    noise: Noise,
    seed: int,
    device: Any,
) -> dict[str, Any]:
    """The method's roles by name, and `start`: the policy as it was before training, frozen.

    start: the folder that the first role starts from, None where the model starts as it is. places: the folders of the
    runs that fill a role. implied: of those that trained a policy, the method, and the folder that the policy began as.
    """

    def scorer(role: str) -> Any:
        if role in implied:
            learned, begun = implied[role]
            policy, reference = (model.policy(data, tokenizer, place).to(device) for place in (places[role], begun))
            return Implied(learned, frozen_copy(policy), frozen_copy(reference))
        if role in places:
            reward = opened(places[role], partial(model.reward, data, tokenizer))
            return frozen_copy(reward.to(device))
        if needs[role] == GROUPS:
            world: Any = data.world
            return Ensemble([GoldOfGroup(world, group) for group in range(len(world.group_rewards))])
        if isinstance(needs[role], Mapping):
            judge = made(needs[role]).judge(data, tokenizer)
            return frozen_copy(judge.to(device)) if isinstance(judge, torch.nn.Module) else judge
        return Gold(data)

    def aggregated(reward: Any) -> Any:
        if isinstance(reward, Ensemble):
            samples = drawn(parts["start"], data, seed=seed, device=device)
            return reward.standardised(samples, method.aggregate)
        if "reward" in places:  # one that has learned nothing is refused here
            moments(reward, drawn(parts["start"], data, seed=seed, device=device, prompts=32))
        return reward

    parts: dict[str, Any] = {}
    if "policy" in method.roles:
        parts["policy"] = model.policy(data, tokenizer, start).to(device)
        adapted = hasattr(getattr(parts["policy"], "model", None), "disable_adapter")
        parts["start"] = AdapterOff(parts["policy"]) if adapted else frozen_copy(parts["policy"])
    if "reference" in method.roles:
        parts["reference"] = {
            "cached": lambda: None,
            "copy": lambda: frozen_copy(parts["policy"]),
            "adapter": lambda: AdapterOff(parts["policy"]),
        }[needs["reference"]]()
    if "reward" in method.roles:
        parts["reward"] = (
            model.reward(data, tokenizer, start, method.form)
            if "reward" in method.trains
            else aggregated(scorer("reward"))
        )
    if "judge" in method.roles:
        learned = needs["judge"] != "gold"  # from noisy labels, or elsewhere, whose log-odds are its reward
        temperature = 1.0 if learned or data.world is None else data.world.temperature
        parts["judge"] = Judge(
            scorer("judge"), temperature=temperature, noise=None if learned else noise, seed=seed, device=device
        )
    return parts


@torch.no_grad()
def drawn(policy: Any, data: Data, *, seed: int, device: Any, prompts: int = SCALE_PROMPTS) -> list[Groups]:
    """What a policy answers to training prompts: the same draws for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    asked = sequential(data.train.pairs, 64, np.arange(min(len(data.train.pairs), prompts)))
    return [policy.sample(batch.to(device), SCALE_RESPONSES, generator) for batch in asked]
