"""Composing configurations: the command line's, and those of the runs that a run needs."""

import difflib
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import cache
from typing import Any, NamedTuple

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from prefopt.errors import PrefoptError
from prefopt.store import CHECKOUT, digest, home

CONF = CHECKOUT / "conf"
PARTS = ("objective", "robust")
PRODUCT = "prefopt.methods.pairwise.base.Pairwise"
OF_HYDRA = {"hydra/launcher": ["basic"], "hydra/job_logging": ["none"], "hydra/hydra_logging": ["none"]}
"""Names that Hydra itself adds to our groups."""
STRUCTURE = frozenset({"needs", "start", "recipe"})
"""Keys of a config node that are about runs, not arguments of its class."""
INHERITED = ("model", "dataset", "noise", "trainer", "tracking", "seed", "micro_batch_size")
"""What a needed run takes over from the run that needs it, unless the need says otherwise."""


def family(target: str) -> str:
    """The family that a method's class lives in: `prefopt.methods.pairwise.base.Pairwise` is pairwise."""
    return target.split(".")[2]


def sweep_name(overrides: Sequence[str]) -> str:
    """The folder of a sweep: the name of its file in sweeps/, and a hash of what else it was sent with."""
    given = {key.lstrip("+"): value for key, _, value in (override.partition("=") for override in overrides)}
    name = given.pop("sweep", "sweep")
    return f"{name}-{digest(given)[:8]}" if given else name


OmegaConf.register_new_resolver("family", family, replace=True)
OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
OmegaConf.register_new_resolver("prefopt_home", lambda: str(home()), replace=True)


def composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration that these command-line overrides give, with the names that were chosen as `choices`.

    Raises PrefoptError for a name or a key that is not there.
    """
    check_choices(overrides)
    here = (
        nullcontext()
        if GlobalHydra.instance().is_initialized()
        else initialize_config_dir(str(CONF), version_base="1.3")
    )
    try:
        with here:
            config = compose("config", overrides=list(overrides), return_hydra_config=True)
    except HydraException as error:
        raise PrefoptError(
            str(error).splitlines()[0],
            "give KEY=VALUE with keys of the configuration; `python -m prefopt.train --help` shows them all",
        ) from error
    return named(config, config.hydra.runtime.choices)


def named(config: DictConfig, chosen: Mapping[str, Any]) -> DictConfig:
    """A composed config with `chosen`, the names by group as Hydra tells them, in the place of Hydra's own node."""
    with open_dict(config):
        config.choices = {group: chosen[group] for group in ("method", "model", "dataset", "noise")}
        parts = {part: chosen[f"method/{part}"] for part in PARTS if f"method/{part}" in chosen}
        if parts:
            config.choices.update(parts, method=product_name(chosen["method"], parts))
        config.pop("hydra", None)
    return config


def product_name(method: str, parts: Mapping[str, str]) -> str:
    """What a method is called with this objective and robustifier: its own name where they are its own, that of the
    method which they make (dpo x unbiased is rdpo), or both parts (ipo-unbiased)."""
    own = _composition(method)
    if parts == own.parts:
        return method
    if not own.plain:
        return "-".join([method, *(parts[part] for part in PARTS if part in parts)])
    others = (path.stem for path in sorted((CONF / "method").glob("*.yaml")))
    made = (name for name in others if (other := _composition(name)).plain and other.parts == parts)
    return next(made, "-".join(parts[part] for part in PARTS))


class Composition(NamedTuple):
    """The objective and robustifier that a method's file names, and whether it is their product and nothing more."""

    parts: dict[str, str]
    plain: bool


@cache
def _composition(method: str) -> Composition:
    node = yaml.safe_load((CONF / "method" / f"{method}.yaml").read_text())
    defaults = [item for item in node.get("defaults", []) if isinstance(item, dict)]
    parts = {part: str(item[part]) for item in defaults for part in PARTS if part in item}
    product = node.get("_target_") == PRODUCT and node.keys() <= {"defaults", "_target_", "needs"}
    return Composition(parts, product and len(defaults) == len(PARTS))


def stages(config: DictConfig) -> dict[str, DictConfig]:
    """What says how a run that this one needs is made, by role: all needs that name a method."""
    return {
        str(role): need
        for role, need in config.method.needs.items()
        if isinstance(need, DictConfig) and "method" in need
    }


def needed(config: DictConfig, need: Mapping[str, Any]) -> DictConfig:
    """The configuration of a run that `config` needs: `{method: sft, noise: none, rounds: 2, ...}`.

    A config group's name picks its file, a dotted key sets a value; what is not said is inherited or default.
    """
    groups = {k: v for k, v in need.items() if (CONF / k).is_dir()}
    base = deepcopy(_composed_once(tuple(f"{group}={name}" for group, name in groups.items())))
    with open_dict(base):
        for key in INHERITED:
            if key not in groups:
                base[key] = config[key]
                if key in base.choices:
                    base.choices[key] = config.choices[key]
        for key, value in need.items():
            if key not in groups:
                OmegaConf.update(base, key, value)
    return base


@cache
def _composed_once(overrides: tuple[str, ...]) -> DictConfig:
    """All cells of a sweep need the same few."""
    return composed(overrides)


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved config as plain containers.

    Raises PrefoptError where the model has no recipe for the method's family.
    """
    kind = family(config.method._target_)
    if kind not in config.model.recipe:
        raise PrefoptError(
            f"model={config.choices.model} has no recipe for the {kind} family of method={config.choices.method}",
            f"choose a method of {', '.join(config.model.recipe)}; or give "
            f"+model.recipe.{kind}='{{lr: ..., rounds: ..., batch_size: ...}}'",
        )
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    return {str(k): v for k, v in resolved.items()}


def made(node: Mapping[str, Any], **more: Any) -> Any:
    """The object that a config node names.

    Raises PrefoptError where an argument is missing or unknown.
    """
    try:
        return instantiate({k: v for k, v in node.items() if k not in STRUCTURE}, _convert_="all", **more)
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, PrefoptError):
            cause = cause.__cause__
        if cause is not None:
            raise cause from None
        raise PrefoptError(
            f"{node.get('_target_')} cannot be made: {error}", "check the keys of this config node"
        ) from error


def check_choices(overrides: Sequence[str]) -> None:
    """Raise PrefoptError for a name that its config group does not hold, with the nearest names."""
    for override in overrides:
        group, _, value = override.lstrip("+").partition("=")
        if "." in group or not (CONF / group).is_dir():
            continue
        names = sorted([path.stem for path in (CONF / group).glob("*.yaml")] + OF_HYDRA.get(group, []))
        for name in value.split(","):
            if name not in names and re.fullmatch(r"[\w.-]+", name):
                near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
                raise PrefoptError(
                    f"{group}={name}: there is no {group} of that name",
                    f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(names)}",
                )
