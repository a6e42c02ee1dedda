"""What a launcher can be told."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from prefopt.errors import PrefoptError

ON_ERROR = ("continue", "stop")
CLUSTERS = ("slurm", "local")


@dataclass(frozen=True)
class Options:
    """cluster: slurm or local. submit: false plans, prints and sends nothing. wait: false returns once all is sent.

    on_error: continue, or stop: no further cell begins after one has failed.
    cells_per_job: cells in one allocation.
    at_once: how many of those work at a time, each in a process with its share of the CPUs; 1: all in one process.
    stack: train cells of exact worlds that are alike as one; their figures are those alone but for rounding, and they
    all begin together.
    jobs: how many processes work at a time (local); null: one for each GPU, or for each core.
    resends: how often a cell whose job was lost (killed, out of memory, a node gone) is sent again while waiting.
    poll_s: seconds between two looks at the runs and the queue.
    preflight: ask the cluster, and a node, before anything is queued.
    max_num_timeout: how often a job may be requeued at its time limit.
    job: all other options, as submitit takes them.
    given: all of them, as they were given.
    """

    cluster: str
    submit: bool
    wait: bool
    on_error: str
    cells_per_job: int = 1
    at_once: int = 1
    stack: bool = False
    jobs: int | None = None
    resends: int = 3
    poll_s: float = 10.0
    preflight: bool = True
    max_num_timeout: int = 1000
    job: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, value, choices in (("cluster", self.cluster, CLUSTERS), ("on_error", self.on_error, ON_ERROR)):
            if value not in choices:
                raise PrefoptError(f"hydra.launcher.{key}={value}", f"choose one of {', '.join(choices)}")
        for key in ("cells_per_job", "at_once", "jobs"):
            value = getattr(self, key)
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise PrefoptError(f"hydra.launcher.{key}={value}", "give a whole number from 1 on")
        if self.at_once > self.cells_per_job:
            raise PrefoptError(
                f"hydra.launcher.at_once={self.at_once}, and a job has {self.cells_per_job} cells",
                f"hydra.launcher.cells_per_job={self.at_once}, or more",
            )
        for key in ("setup", "srun_args"):
            if isinstance(self.job.get(key), str):
                raise PrefoptError(f"hydra.launcher.{key}={self.job[key]} is one text", f"give a list: '{key}=[...]'")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Our own options by name, and the rest for submitit, less what is null."""
        given = {k: v for k, v in given.items() if not k.startswith("_")}
        own = {f.name for f in fields(cls)} - {"job", "given"}
        job = {k: v for k, v in given.items() if k not in own and v is not None}
        return cls(**{k: v for k, v in given.items() if k in own}, job=job, given=given)

    @property
    def tasks_per_node(self) -> int:
        return int(self.job.get("tasks_per_node") or 1)

    @property
    def nodes(self) -> int:
        return int(self.job.get("nodes") or 1)
