"""Hydra's side: `hydra/launcher=slurm` and `hydra/launcher=local`. Imported at every start, so light."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SweepLauncher(Launcher):
    """Sends the cells of a multirun as one sweep; what it can be told is in `launchers.options.Options`."""

    def __init__(self, **options: Any) -> None:
        pass

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from launchers.send import launch

        launch(self.config.hydra, job_overrides)
        return []
