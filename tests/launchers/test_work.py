"""What a job that was told to stop does next depends on why it was told."""

from pathlib import Path

import pytest

from launchers.work import preempted


@pytest.mark.parametrize(
    ("state", "goes_on"),
    [("RUNNING", True), ("SIGNALING", True), ("COMPLETING", False), ("CANCELLED", False), ("", False)],
)
def test_a_job_is_requeued_while_slurm_has_not_ended_it(
    state: str, goes_on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\necho {state}\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert preempted() is goes_on
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    assert not preempted()
