"""The jobs that a sweep still needs, and handing them to submitit."""

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import submitit
from submitit.core.utils import FailedJobError

from launchers.options import Options
from launchers.states import MISSING, UNDER_WAY, State
from launchers.work import Work, logged
from prefopt.errors import PrefoptError
from prefopt.manifest import Job, Manifest

A_YEAR_MIN = 366 * 24 * 60


@dataclass(frozen=True)
class Batch:
    """Jobs that are sent together: a SLURM array, or processes on this machine."""

    says: str
    works: tuple[Work, ...]

    @property
    def at_once(self) -> int:
        """How many runs it carries out at a time, where all of its jobs run."""
        return sum(max(1, work.forks) for work in self.works)


def missing(manifest: Manifest, found: Mapping[str, State]) -> list[str]:
    """The cells that no job will bring to a good end."""
    return [cell.run for cell in manifest.cells if found[cell.run].state in MISSING | {"failed"}]


def batches(manifest: Manifest, found: Mapping[str, State], cells: Sequence[str], options: Options) -> list[Batch]:
    """The jobs for these cells: on SLURM stages first, which the cells then wait for in the queue."""
    stages = [stage.run for stage in manifest.stages if found[stage.run].state in MISSING | {"failed"}]
    now = time.time()
    if not cells:
        return []
    if options.cluster == "local":
        runs = (*stages, *cells)
        count = min(processes(manifest, options), len(runs))
        if len(runs) > 1 and forkable(manifest):
            return [Batch("processes", (Work(manifest.folder, runs, False, now, count, options.stack),))]
        return [Batch("processes", (Work(manifest.folder, runs, True, now, 0, options.stack),) * count)]
    size = options.cells_per_job
    packs = [tuple(cells[start : start + size]) for start in range(0, len(cells), size)]
    groups: dict[str, list[tuple[str, ...]]] = {
        "stages that cells share": [(stage,) for stage in stages],
        "cells": packs,
    }
    return [
        Batch(
            says, tuple(Work(manifest.folder, pack, False, now, _forks(pack, options), options.stack) for pack in group)
        )
        for says, group in groups.items()
        if group
    ]


def _forks(pack: Sequence[str], options: Options) -> int:
    """How many of these cells of a job on SLURM are carried out in forks at a time; 0: none is."""
    count = min(options.at_once, len(pack))
    return count if count > 1 else 0


def forkable(manifest: Manifest) -> bool:
    """Whether runs can be forks of one process here: this is Linux, and none may use a GPU, which forks cannot."""
    return sys.platform == "linux" and not gpus(manifest)


def processes(manifest: Manifest, options: Options) -> int:
    """How many processes a local sweep works with."""
    return options.jobs or len(gpus(manifest)) or cores()


def gpus(manifest: Manifest) -> list[int]:
    """The GPUs that the sweep's runs would use on this machine, of those that the user lets be seen."""
    import torch

    if all(cell.config["trainer"]["accelerator"] == "cpu" for cell in manifest.cells):
        return []
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    count = torch.cuda.device_count()
    return [int(number) for number in allowed] if all(map(str.isdigit, allowed)) else list(range(count))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def send(manifest: Manifest, todo: Sequence[Batch], found: Mapping[str, State], options: Options) -> Manifest:
    """Send the jobs, and write them into the manifest.

    Raises PrefoptError where the cluster refuses them.
    """
    stages = [found[stage.run] for stage in manifest.stages]
    before = {stage.job.id for stage in stages if stage.state in UNDER_WAY and stage.job is not None}
    for batch in todo:
        local = options.cluster == "local"
        ids = _local(manifest, batch) if local else _slurm(manifest, batch, options, before)
        works = zip(ids, batch.works, strict=True)
        manifest = manifest.sent([Job(id, options.cluster, work.runs, work.sent) for id, work in works])
        before |= {id.partition("_")[0] for id in ids}
    return manifest


def _local(manifest: Manifest, batch: Batch) -> list[str]:
    available, share = gpus(manifest), max(1, cores() // batch.at_once)
    ids = []
    (manifest.folder / "jobs").mkdir(exist_ok=True)
    with _left_alone(), _environment(OMP_NUM_THREADS=str(share)), logged(manifest.folder / "jobs" / "started.log"):
        for place, work in enumerate(batch.works):
            executor = submitit.LocalExecutor(manifest.folder / "jobs", max_num_timeout=0)
            visible = {"gpus_per_node": 1, "visible_gpus": [available[place % len(available)]]} if available else {}
            executor.update_parameters(timeout_min=A_YEAR_MIN, stderr_to_stdout=True, **visible)
            ids.append(str(executor.submit(work).job_id))
    return ids


def _slurm(manifest: Manifest, batch: Batch, options: Options, before: Set[str]) -> list[str]:
    executor = slurm_executor(manifest, options, before)
    try:
        with executor.batch():
            jobs = [executor.submit(work) for work in batch.works]
    except FailedJobError as error:
        raise PrefoptError(
            f"SLURM refused the job: {str(error).strip().splitlines()[-1]}", "change what it names under hydra.launcher"
        ) from error
    return [str(job.job_id) for job in jobs]


def slurm_executor(manifest: Manifest, options: Options, before: Set[str] = frozenset()) -> submitit.AutoExecutor:
    """submitit's, with these options; its jobs begin when the jobs `before` have ended, however they did.

    Raises PrefoptError where submitit does not know an option, or there is no SLURM here.
    """
    job: dict[str, Any] = {"stderr_to_stdout": True, **options.job}
    if "cpus_per_task" in job:  # srun does not take it over from sbatch since SLURM 22.05
        job["setup"] = [f"export SRUN_CPUS_PER_TASK={job['cpus_per_task']}", *job.get("setup", [])]
    if before:
        job["dependency"] = f"afterany:{':'.join(sorted(before))}"
    shared = submitit.AutoExecutor._typed_parameters()
    try:
        executor = submitit.AutoExecutor(
            manifest.folder / "jobs", cluster="slurm", slurm_max_num_timeout=options.max_num_timeout
        )
        executor.update_parameters(**{k if k in shared else f"slurm_{k}": v for k, v in job.items()})
    except (NameError, AssertionError) as error:
        raise PrefoptError(
            f"hydra.launcher: {str(error).splitlines()[0]}", "see conf/hydra/launcher/slurm.yaml"
        ) from error
    except RuntimeError as error:
        raise PrefoptError(
            f"there is no SLURM here: {error}",
            "send it from the cluster's login node, or use hydra/launcher=local",
        ) from error
    return executor


def sbatch_text(manifest: Manifest, options: Options, batch: Batch) -> str:
    """The script that SLURM is given, but for the jobs that it comes after."""
    executor: Any = slurm_executor(manifest, options)._executor
    if len(batch.works) > 1:
        executor.parameters["map_count"] = len(batch.works)
    return str(executor._make_submission_file_text(executor._submitit_command_str, "plan"))


@contextmanager
def _left_alone() -> Iterator[None]:
    """Processes started here go on when the terminal is closed; Ctrl-C in it is not theirs."""
    signals = (signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Processes started here see these variables, where they are not set already."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
