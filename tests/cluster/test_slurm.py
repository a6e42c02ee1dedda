"""The cluster itself: what the sweeps' tests take for granted."""

import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REQUEUES_ITSELF = """#!/bin/bash
echo "start ${SLURM_RESTART_COUNT:-0}"
[[ -z ${SLURM_RESTART_COUNT:-} ]] || exit 0
srun bash -c 'trap "echo told; scontrol requeue $SLURM_JOB_ID" TERM; echo ready; sleep 300'
sleep 300
"""
RUNS_TWICE = """#!/bin/bash
echo "start ${SLURM_RESTART_COUNT:-0}"
[[ -n ${SLURM_RESTART_COUNT:-} ]] || sleep 300
"""


def submit(slurm: Any, folder: Path, script: str, *options: str) -> tuple[str, Path]:
    (folder / "job.sh").write_text(script)
    log = folder / "job.log"
    return slurm.sbatch(*options, "--open-mode=append", f"--output={log}", folder / "job.sh"), log


def said(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if line.startswith(("start", "told"))] if log.exists() else []


def ended(slurm: Any, job: str) -> bool:
    return slurm.job(job)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT")


def test_up_a_second_time_does_nothing(slurm: Any) -> None:
    said = subprocess.run([ROOT / "launchers/slurm/up"], capture_output=True, text=True)
    assert said.returncode == 0 and "up already" in said.stdout


def test_two_nodes_run_one_job_together_and_its_ranks_know_where_to_meet(slurm: Any) -> None:
    told = "echo $SLURM_PROCID $SLURM_NODEID $SLURMD_NODENAME $MASTER_ADDR"
    done = subprocess.run(["srun", "-N2", "-n2", "bash", "-c", told], capture_output=True, text=True)
    assert sorted(done.stdout.splitlines()) == ["0 0 n1 127.0.0.1", "1 1 n2 127.0.0.1"], done.stderr


def test_fake_gpus_are_dealt_out(slurm: Any) -> None:
    done = subprocess.run(
        ["srun", "--gpus-per-node=2", "bash", "-c", "echo $CUDA_VISIBLE_DEVICES"], capture_output=True, text=True
    )
    assert done.stdout == "0,1\n", done.stderr


def test_a_preempted_job_is_told_and_starts_again_with_the_same_id(slurm: Any, tmp_path: Path) -> None:
    job, log = submit(slurm, tmp_path, REQUEUES_ITSELF)
    slurm.until(lambda: log.exists() and "ready" in log.read_text(), 30, "the job to start")
    slurm.preempt()
    slurm.until(lambda: ended(slurm, job), 60, "the job to end")
    assert said(log) == ["start 0", "told", "start 1"]
    assert slurm.job(job)["JobState"] == "COMPLETED" and slurm.job(job)["Restarts"] == "1"


def test_a_node_without_power_is_noticed_its_job_starts_elsewhere_and_the_node_comes_back(
    slurm: Any, tmp_path: Path
) -> None:
    job, log = submit(slurm, tmp_path, RUNS_TWICE)
    slurm.until(lambda: said(log) == ["start 0"], 30, "the job to start")
    node = next(node for node in slurm.nodes if node.name == slurm.job(job)["BatchHost"])
    node.kill()
    slurm.until(lambda: ended(slurm, job), 30, "the job to end")
    assert said(log) == ["start 0", "start 1"] and slurm.job(job)["BatchHost"] != node.name
    node.start()
