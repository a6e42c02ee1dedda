"""Who plays which role: policies, references, reward models and judges, from the config's `needs`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefopt.datasets.data import Data
from prefopt.methods.base import Method
from prefopt.models.causal import AdapterOff, frozen_copy
from prefopt.models.judge import Judge
from prefopt.models.model import Gold
from prefopt.noise.base import Noise


def cast(
    method: Method,
    needs: Mapping[str, Any],
    *,
    model: Any,
    data: Data,
    tokenizer: Any,
    start: Path | None,
    places: Mapping[str, Path],
    noise: Noise,
    seed: int,
    device: Any,
) -> dict[str, Any]:
    """The method's roles by name, and `start`: the policy as it was before training, frozen.

    start: the folder that the first role starts from, None where the model starts as it is. places: the folders of the
    runs that fill a role.
    """

    def scorer(role: str) -> Any:
        if role in places:
            return frozen_copy(model.reward(data, tokenizer, places[role]).to(device))
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
        trained = "reward" in method.trains
        parts["reward"] = model.reward(data, tokenizer, start, method.form) if trained else scorer("reward")
    if "judge" in method.roles:
        learned = "judge" in places  # from noisy labels, whose log-odds are its reward
        temperature = 1.0 if learned or data.world is None else data.world.temperature
        parts["judge"] = Judge(
            scorer("judge"), temperature=temperature, noise=None if learned else noise, seed=seed, device=device
        )
    return parts
