"""What would go wrong in every job, found out before any is queued."""

import difflib
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
import uuid

from launchers.jobs import Batch, sbatch_text
from launchers.options import Options
from prefopt.errors import PrefoptError
from prefopt.files import replace_text
from prefopt.manifest import Manifest
from prefopt.progress import say

PROBE_S = 60
"""How long a node is waited for; a busy cluster is believed."""


def preflight(manifest: Manifest, options: Options, batch: Batch) -> None:
    """Raise PrefoptError where jobs and cells do not fit each other, the cluster, or the folder that they share."""
    fitting(manifest, options)
    if options.cluster == "slurm":
        known_partition(options)
        accepted(manifest, options, batch)
        if options.preflight:
            shared(manifest, options)


def fitting(manifest: Manifest, options: Options) -> None:
    """One task for each device, on as many nodes as the trainer counts on, and a GPU where one is asked for."""
    for cell in manifest.cells:
        trainer = cell.config["trainer"]
        devices, nodes = int(trainer["devices"]), int(trainer.get("num_nodes", 1))
        where = f"cell {cell.index} has trainer.devices={devices} and trainer.num_nodes={nodes}"
        if options.cluster == "local" and devices * nodes > 1:
            raise PrefoptError(
                f"{where}, and hydra/launcher=local gives each cell one process",
                f"use hydra/launcher=slurm, or run one: torchrun --nproc-per-node={devices} -m prefopt.train ...",
            )
        if options.cluster == "slurm" and (devices, nodes) != (options.tasks_per_node, options.nodes):
            raise PrefoptError(
                f"{where}, but the job has {options.tasks_per_node} tasks on each of {options.nodes} nodes",
                f"hydra.launcher.tasks_per_node={devices} hydra.launcher.nodes={nodes}: one task for each device",
            )
        if options.at_once > 1 and (devices * nodes > 1 or trainer["accelerator"] != "cpu"):
            raise PrefoptError(
                f"hydra.launcher.at_once={options.at_once}, and cell {cell.index} may use a GPU, or several processes",
                "trainer=cpu; or at_once=1: the cells of a job one after the other",
            )
        asked = {"gpus_per_node", "gpus_per_task", "gres"} & set(options.job)
        if options.cluster == "slurm" and trainer["accelerator"] in ("gpu", "cuda") and not asked:
            raise PrefoptError(
                f"cell {cell.index} has trainer.accelerator={trainer['accelerator']}, and the job asks for no GPU",
                f"hydra.launcher.gpus_per_node={devices}, or trainer=cpu",
            )


def known_partition(options: Options) -> None:
    """The partition is there, is up, and lets jobs run for as long as is asked."""
    lines = _answer(["sinfo", "--noheader", "--format", "%P|%a|%l"]).split()
    found = {name.rstrip("*"): (up, limit) for name, up, limit in (line.split("|") for line in lines)}
    default = next((line.split("|")[0][:-1] for line in lines if line.split("|")[0].endswith("*")), None)
    name = options.job.get("partition") or default
    if name is None:
        raise PrefoptError(
            "this cluster has no default partition, and none is given",
            f"hydra.launcher.partition=..., one of {', '.join(sorted(found))}",
        )
    for one in str(name).split(","):
        if one not in found:
            near = difflib.get_close_matches(one, found, n=3, cutoff=0.5) or sorted(found)
            raise PrefoptError(
                f"hydra.launcher.partition={one}: there is no such partition", f"choose {' or '.join(near)}"
            )
        up, limit = found[one]
        if up != "up":
            raise PrefoptError(f"hydra.launcher.partition={one} is {up}", "choose another, or wait until it is up")
        _sane_time(options, one, minutes(limit))


def _sane_time(options: Options, partition: str, limit: float) -> None:
    asked, delay = float(options.job["timeout_min"]), float(options.job.get("signal_delay_s", 90)) / 60
    if asked > limit:
        raise PrefoptError(
            f"hydra.launcher.timeout_min={asked:g}, and partition {partition} ends jobs after {limit:g} minutes",
            f"hydra.launcher.timeout_min={limit:g}: a run that needs longer is requeued, and goes on",
        )
    if asked <= 2 * delay:
        raise PrefoptError(
            f"hydra.launcher.timeout_min={asked:g} leaves no time: a run is told to save {delay:g} minutes before",
            "raise timeout_min, or lower hydra.launcher.signal_delay_s",
        )


def minutes(limit: str) -> float:
    """SLURM's `days-hours:minutes:seconds` in minutes."""
    if not re.match(r"\d", limit):
        return float("inf")
    days, _, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if days:
        hours, mins, seconds = (*parts, 0, 0)[:3]
    else:
        hours, mins, seconds = (0, 0, *parts)[-3:] if len(parts) > 1 else (0, parts[0], 0)
    return int(days or 0) * 24 * 60 + hours * 60 + mins + seconds / 60


def accepted(manifest: Manifest, options: Options, batch: Batch) -> None:
    """SLURM would take the jobs as they are, and so many."""
    configured = re.search(r"MaxArraySize\s*=\s*(\d+)", _answer(["scontrol", "show", "config"]))
    most = int(configured[1]) - 1 if configured else len(batch.works)
    if len(batch.works) > most:
        cells = sum(len(work.runs) for work in batch.works)
        raise PrefoptError(
            f"{len(batch.works)} jobs in an array, and this cluster takes {most}",
            f"hydra.launcher.cells_per_job={math.ceil(cells / most)}",
        )
    script = manifest.folder / "preflight.sh"
    replace_text(script, sbatch_text(manifest, options, batch))
    _answer(["sbatch", "--test-only", str(script)])
    script.unlink()


def shared(manifest: Manifest, options: Options) -> None:
    """A node reads, writes and locks in the sweep's folder as this machine does."""
    token = uuid.uuid4().hex
    replace_text(manifest.folder / "probe", token)
    asked = {key: options.job[key] for key in ("partition", "account", "qos", "constraint") if key in options.job}
    flags = [f"--{key}={value}" for key, value in asked.items()]
    probe = shlex.join([sys.executable, "-m", "launchers.probe", str(manifest.folder), token])
    script = "\n".join([*options.job.get("setup", []), probe])
    limits = ["--nodes=1", "--ntasks=1", "--time=5", f"--immediate={PROBE_S}", "--job-name=preflight"]
    done = subprocess.run(["srun", *limits, *flags, "bash", "-c", script], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        if "Unable to allocate resources" in done.stderr:
            say(f"no node was free within {PROBE_S} s, so the shared folder is not tried", "yellow")
            return
        raise PrefoptError(
            f"a node cannot run {sys.executable} -m launchers.probe: {done.stderr.strip().splitlines()[-1:]}",
            "install prefopt where every node sees it, and load what it needs by hydra.launcher.setup",
        )
    answer = json.loads(lines[-1])
    written = manifest.folder / "answer"
    if not answer["sees"]:
        raise PrefoptError(
            f"node {answer['host']} does not see {manifest.folder}", "set PREFOPT_HOME to a folder that all nodes share"
        )
    if not written.exists() or written.read_text() != token:
        raise PrefoptError(
            f"what node {answer['host']} writes to {manifest.folder} does not arrive here",
            "set PREFOPT_HOME to a folder that nodes may write to",
        )
    if not answer["locks"]:
        raise PrefoptError(
            f"node {answer['host']} does not see the locks of this machine in {manifest.folder}",
            "mount the file system with flock, or set PREFOPT_HOME to one that has it: locks keep a cell from being "
            "run twice",
        )
    for name in ("probe", "answer"):
        (manifest.folder / name).unlink()


def _answer(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        raise PrefoptError(
            f"there is no SLURM here: {command[0]} is not found",
            "send the sweep from the cluster's login node, or use hydra/launcher=local; `make slurm-up` brings up one "
            "to try",
        )
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise PrefoptError(
            f"SLURM says no: {done.stderr.strip().splitlines()[-1]}", "change what it names under hydra.launcher"
        )
    return done.stdout
