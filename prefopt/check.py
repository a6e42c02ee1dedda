"""Combinations that cannot work, refused with what would work: what only the classes themselves can tell."""

from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from prefopt import belief
from prefopt.batch import Choices, Demonstrations, Prompts
from prefopt.cast import GROUPS
from prefopt.config import made, needed, plain, stages
from prefopt.errors import PrefoptError
from prefopt.foresee import check_worlds
from prefopt.methods.base import Method
from prefopt.models.text import Tiny

REFERENCES = ("cached", "copy", "adapter")


def check(config: DictConfig, method: Method, model: Any, dataset: Any) -> None:
    """Raise PrefoptError where method, model, dataset, noise and needs do not go together."""
    choices = config.choices
    check_worlds(choices, {model.world}, {dataset.world}, method.worlds)
    if method.coupled and config.micro_batch_size is not None:
        raise PrefoptError(
            f"micro_batch_size={config.micro_batch_size}, but method={choices.method} compares the examples of a whole "
            f"batch ({config.batch_size})",
            "leave micro_batch_size=null, and lower batch_size where memory is short",
        )
    eaten = Prompts if method.per_round is not None else method.eats
    if not any(issubclass(kind, eaten) for kind in dataset.gives):
        gives = ", ".join(sorted(kind.__name__ for kind in dataset.gives))
        mend = "on exact worlds the policy starts as the reference, without SFT"
        raise PrefoptError(
            f"method={choices.method} eats {eaten.__name__}, and dataset={choices.dataset} gives only {gives}",
            mend if eaten is Demonstrations else "choose another dataset",
        )
    if belief.asks(OmegaConf.to_container(config.method, resolve=True)) and method.per_round is not None:
        raise PrefoptError(
            f"noise.assumed=estimated, but method={choices.method} learns from pairs of its own making",
            "say what it is to assume: noise.assumed=0.2",
        )
    if config.rounds < method.least_rounds:
        raise PrefoptError(
            f"rounds={config.rounds}, and what method={choices.method} is for begins in round {method.least_rounds}",
            f"give at least rounds={method.least_rounds}; 3 or more are usual",
        )
    for role in method.roles:
        _check_need(config, method, model, dataset, role)
    if config.noise.rate > 0 and not reads_labels(config):
        raise PrefoptError(
            f"noise.rate={config.noise.rate}, but no part of method={choices.method} reads a label",
            "use noise=none, or a learned reward: 'method.needs.reward={method: bradley_terry}'",
        )


def _check_need(config: DictConfig, method: Method, model: Any, dataset: Any, role: str) -> None:
    if role not in config.method.needs:
        raise PrefoptError(f"method.needs says nothing of the role {role}", f"add +method.needs.{role}=...")
    need = config.method.needs[role]
    if role == "reference":
        if need not in REFERENCES:
            raise PrefoptError(
                f"method.needs.reference={need} is no kind of reference", "choose cached, copy or adapter"
            )
        if need == "cached" and method.per_round is not None:
            raise PrefoptError(
                "method.needs.reference=cached, but this method learns from samples that no cache has seen",
                "use method.needs.reference=copy, or adapter",
            )
        if need == "cached" and getattr(getattr(method, "objective", None), "uses_mismatched", False):
            raise PrefoptError(
                "method.needs.reference=cached, but this objective asks for responses to other prompts, which no cache "
                "has seen",
                "use method.needs.reference=copy, or adapter",
            )
        if need == "cached" and method.whole_laws:
            raise PrefoptError(
                "method.needs.reference=cached, but this method compares whole next-token laws, which no cache holds",
                "use method.needs.reference=copy, or adapter",
            )
        if need == "adapter" and not getattr(model, "lora", None):
            raise PrefoptError(
                "method.needs.reference=adapter, but the model has no adapter",
                "give the model one ('model.lora={r: 16}') or use method.needs.reference=cached",
            )
    elif role not in method.trains and role != "policy":
        _check_judge(config, model, dataset, role, need)


def _check_judge(config: DictConfig, model: Any, dataset: Any, role: str, need: Any) -> None:
    if role in stages(config):
        judge = needed(config, need)
        made_by: Method = made(belief.told(plain(judge)["method"], rate=0.0))
        learns = "reward" in made_by.trains or ("policy" in made_by.trains and "reward" not in made_by.roles)
        if type(made_by).score is Method.score or not learns:
            raise PrefoptError(
                f"method.needs.{role}.method={need.method} has learned no reward",
                "name a reward model, such as bradley_terry, or a method whose policy implies one, such as dpo",
            )
        if "policy" in made_by.trains and "policy" not in stages(judge) and isinstance(model, Tiny):
            raise PrefoptError(
                f"method.needs.{role}.method={need.method} implies a reward over the random model that it began as, "
                "which nobody has kept",
                "let it begin with a run of its own: model.start={method: sft, noise: none}",
            )
    elif isinstance(need, DictConfig) and "_target_" in need:
        if (world := made(need).world) != model.world:
            raise PrefoptError(
                f"method.needs.{role}={need._target_} judges {world}, and dataset={config.choices.dataset} is "
                f"{model.world}",
                f"use method.needs.{role}=gold, or 'method.needs.{role}={{method: bradley_terry}}'",
            )
    elif need == GROUPS and role == "reward":
        if not getattr(dataset, "has_groups", False):
            raise PrefoptError(
                f"method.needs.reward=groups, but dataset={config.choices.dataset} has no groups that want different "
                "things",
                "use dataset=populations, or 'method.needs.reward={method: bt_mixture}'",
            )
    else:
        if need != "gold":
            raise PrefoptError(
                f"method.needs.{role}={need} is no {role}", "use gold, or {method: bradley_terry} for a learned one"
            )
        if not dataset.has_gold:
            raise PrefoptError(
                f"method.needs.{role}=gold, but dataset={config.choices.dataset} has no reward of its own",
                f"use 'method.needs.{role}={{method: bradley_terry}}', or dataset=reviews, or dataset=bandit",
            )


def reads_labels(config: DictConfig) -> bool:
    """Whether the labels of training pairs, or of a judge, enter this run or one that it needs."""
    method: Any = get_class(config.method._target_)
    if issubclass(method.eats, Choices):
        return True
    return any(need.get("noise") != "none" and reads_labels(needed(config, need)) for need in stages(config).values())
