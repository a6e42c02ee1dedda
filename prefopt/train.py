"""`python -m prefopt.train method=rdpo`: one run, or with -m a sweep. `--help` says more."""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from prefopt.config import check_choices, named, plain
from prefopt.errors import PrefoptError, reports_errors
from prefopt.foresee import foresee
from prefopt.help import help_of
from prefopt.tracking.telemetry import silence


@hydra.main(config_path="../conf", config_name="config", version_base="1.3")
@reports_errors
def job(config: DictConfig) -> float | None:
    """One run; its figures and where everything is on standard error, the path of results.json on standard output."""
    config = named(config, HydraConfig.get().runtime.choices)
    foresee(plain(config), config.choices)
    from prefopt import ranks
    from prefopt.run import run
    from prefopt.summary import summarise

    stored = run(config)
    if ranks.first():
        summarise(stored)
        print(stored.results, flush=True)
    return None


@reports_errors
def main() -> None:
    silence()
    given = sys.argv[1:]
    check_choices([argument for argument in given if "=" in argument])
    if {"-h", "--help"} & set(given):
        print(help_of([argument.partition(",")[0] for argument in given if not argument.startswith("-")]))
        return
    launcher = next((argument for argument in given if argument.startswith(("hydra/launcher=", "hydra.launcher."))), "")
    if not {"-m", "--multirun"} & set(given):
        if launcher:
            raise PrefoptError(f"{launcher} is for sweeps, and without -m this is one run, here", "add -m")
    elif not any(argument.startswith("hydra/launcher=") for argument in given):
        sys.argv.append("hydra/launcher=local")
    job()


if __name__ == "__main__":
    main()
