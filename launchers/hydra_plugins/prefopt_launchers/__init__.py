"""Hydra's side: `hydra/launcher=slurm` and `hydra/launcher=local`. Imported at every start, so light."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class SweepLauncher(Launcher):
    """Sends the cells of a multirun as one sweep; what it can be told is in `launchers.options.Options`."""

    def __init__(self, **options: Any) -> None:
        pass

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from launchers.plan import Sweep
        from launchers.send import launch

        hydra = self.config.hydra
        sweep = Sweep(
            folder=Path(hydra.sweep.dir).absolute(),
            cells=job_overrides,
            command=list(hydra.overrides.task),
            hydra_overrides=list(hydra.overrides.hydra),
        )
        options: Any = OmegaConf.to_container(hydra.launcher, resolve=True)
        launch(sweep, options)
        return []
