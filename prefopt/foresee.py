"""What is wrong with a configuration as far as its words and the source of its classes tell: no torch is loaded."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from prefopt.config import STRUCTURE, made
from prefopt.errors import PrefoptError
from prefopt.outline import parameters, words

DATASETS = {"text": "dataset=reviews, or dataset=pairs", "exact": "dataset=bandit, or dataset=game"}
MODELS = {"text": "model=tiny, or model=hf", "exact": "model=log_linear, or model=tabular"}
OF_HYDRA = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


def foresee(settings: Mapping[str, Any], choices: Mapping[str, str]) -> None:
    """Raise PrefoptError for a key that no class of prefopt takes, for noise that cannot be, and for parts of different
    worlds."""
    for place, node in _named("", {key: value for key, value in settings.items() if key != "recipe"}):
        _check_keys(place, node)
    made(settings["noise"])
    target = {group: settings[group]["_target_"] for group in ("method", "model", "dataset")}
    said = [
        words(target[group], attribute)
        for group, attribute in (("model", "world"), ("dataset", "world"), ("method", "worlds"))
    ]
    if None not in said:
        check_worlds(choices, *said)


def check_worlds(choices: Mapping[str, str], runs_in: Any, holds: Any, learns_in: Any) -> None:
    """Raise PrefoptError where the worlds that a model runs in, a dataset holds and a method learns in do not meet."""
    if set(runs_in) != set(holds):
        raise PrefoptError(
            f"model={choices['model']} does not run on dataset={choices['dataset']}",
            f"use {_named_for(MODELS, holds)}; or {_named_for(DATASETS, runs_in)}",
        )
    if not set(runs_in) <= set(learns_in):
        raise PrefoptError(
            f"method={choices['method']} does not run in the {' '.join(runs_in)} world of dataset={choices['dataset']}",
            "use " + "; or ".join(f"{DATASETS[world]}, with {MODELS[world]}" for world in sorted(learns_in)),
        )


def _named_for(names: Mapping[str, str], worlds: Any) -> str:
    return "; or ".join(names[world] for world in sorted(worlds))


def _named(place: str, node: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every config node that names a class, and where it stands; what a run needs is another run's configuration."""
    if not isinstance(node, Mapping):
        return
    if "_target_" in node:
        yield place, node
    for key, value in node.items():
        if key not in STRUCTURE:
            yield from _named(f"{place}.{key}".lstrip("."), value)


def _check_keys(place: str, node: Mapping[str, Any]) -> None:
    takes = parameters(node["_target_"])
    for key in node:
        if takes is not None and key not in takes | STRUCTURE | OF_HYDRA:
            near = difflib.get_close_matches(str(key), takes, n=1, cutoff=0.5)
            raise PrefoptError(
                f"{place}.{key}={node[key]}: {node['_target_'].rpartition('.')[2]} takes no {key}",
                f"did you mean {place}.{near[0]}?" if near else f"choose of {', '.join(sorted(takes))}",
            )
