"""`python -m prefopt.train --help`: what there is to choose from, and the configuration that a command line gives.

Hydra's own reads every group twice and takes longer than the rest of the command.
"""

from collections.abc import Sequence

from omegaconf import OmegaConf

from prefopt.config import CONF, composed

HEADER = """\
python -m prefopt.train: train one method on one model, dataset and noise rate; measure it; keep the record.

python -m prefopt.train method=rdpo                                          one run, on the embedded default
python -m prefopt.train method=dpo noise.rate=0.4 seed=1                     another
python -m prefopt.train method=rdpo dataset=hh_rlhf dataset.path=FOLDER      on real preferences
python -m prefopt.train -m method=dpo,rdpo noise.rate=0,0.2,0.4 seed=0,1,2   a sweep
python -m prefopt.train -m +sweep=noise_grid hydra/launcher=slurm            a sweep from a file, on a cluster
python -m prefopt.train method=grpo dataset=bandit model=log_linear          on an exact world

Choose one of each group (GROUP=NAME), and override any value below (KEY.SUBKEY=VALUE):
"""
FOOTER = """\
A run is a function of its configuration: the same command again finds it done, or goes on where it was killed.
Runs lie under runs/, or PREFOPT_HOME. `--cfg job` prints the composed configuration, `--hydra-help` Hydra's own flags.\
"""


def help_of(overrides: Sequence[str]) -> str:
    """The help, with `overrides` applied to the configuration that it shows; of a sweep, each key's first value."""
    groups: dict[str, list[str]] = {}
    for path in sorted(CONF.rglob("*.yaml")):
        group = path.parent.relative_to(CONF).as_posix()
        if group != "." and not group.startswith("hydra/"):
            groups.setdefault(group, []).append(path.stem)
    config = composed(overrides)
    shown = OmegaConf.masked_copy(config, [str(key) for key in config if key != "choices"])
    return "\n".join(
        [
            HEADER,
            *(f"{group}: {', '.join(sorted(names))}" for group, names in sorted(groups.items())),
            "\nThe composed configuration, with what you gave applied:\n",
            OmegaConf.to_yaml(shown),
            FOOTER,
        ]
    )
