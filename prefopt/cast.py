"""Who plays which role: policies, references, reward models and judges, from the config's `needs`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prefopt.datasets.data import Data
from prefopt.methods.base import Method
from prefopt.models.causal import AdapterOff, frozen_copy
from prefopt.models.judge import Judge
from prefopt.models.model import Gold
from prefopt.noise.base import Noise

Needed = Callable[[Mapping[str, Any]], Path]
"""Runs the run that a need describes, or finds it, and says where its model is."""


def start_of(method: Method, needs: Mapping[str, Any], needed: Needed) -> Path | None:
    """The folder that the method's first trained or acting role starts from, None where the model starts as it is."""
    need = needs.get("policy" if "policy" in method.roles else method.roles[0])
    return needed(need) if isinstance(need, Mapping) else None


def cast(
    method: Method,
    needs: Mapping[str, Any],
    *,
    model: Any,
    data: Data,
    tokenizer: Any,
    start: Path | None,
    needed: Needed,
    noise: Noise,
    seed: int,
    device: Any,
) -> dict[str, Any]:
    """The method's roles by name, and `start`: the policy as it was before training, frozen."""

    def scorer(role: str) -> Any:
        need = needs[role]
        if isinstance(need, Mapping):
            return frozen_copy(model.reward(data, tokenizer, needed(need)).to(device))
        return Gold(data)

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
        parts["reward"] = model.reward(data, tokenizer, start) if "reward" in method.trains else scorer("reward")
    if "judge" in method.roles:
        temperature = 1.0 if data.world is None else data.world.temperature
        parts["judge"] = Judge(scorer("judge"), temperature=temperature, noise=noise, seed=seed, device=device)
    return parts
