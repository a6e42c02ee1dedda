"""Runs carried out in forks: so many at a time, each with its own end, and none begun once the job is told to stop."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launchers.forks import Names, forked
from launchers.jobs import batches
from launchers.options import Options
from launchers.preflight import fitting
from launchers.states import State, known_states
from launchers.work import lost
from prefopt import stop
from prefopt.errors import PrefoptError
from prefopt.manifest import Job
from tests.launchers.conftest import SMALL, until

GIVEN = {"submit": True, "wait": True, "on_error": "continue"}
PACKED = Options.of({"cluster": "slurm", "cells_per_job": 3, "at_once": 2, **GIVEN})


def always() -> bool:
    return True


def test_each_ends_with_its_own_code_in_a_process_of_its_own() -> None:
    ends: dict[Names, Callable[[], Any]] = {
        ("done", "and another"): lambda: 0,
        ("failed",): lambda: 3,
        ("raised",): lambda: 1 / 0,
        ("killed",): lambda: os.kill(os.getpid(), signal.SIGKILL),
    }
    codes = dict(forked(list(ends), 2, lambda names: ends[names](), always))
    assert codes == dict(zip(ends, [0, 3, 1, -signal.SIGKILL], strict=True))


def test_no_more_than_so_many_are_under_way(tmp_path: Path) -> None:
    def carried_out(names: Names) -> int:
        (tmp_path / names[0]).touch()
        under_way = len(list(tmp_path.iterdir()))
        (tmp_path / names[0]).unlink()
        return under_way

    codes = dict(forked([(str(number),) for number in range(12)], 2, carried_out, always))
    assert len(codes) == 12 and set(codes.values()) <= {1, 2}


def test_two_are_under_way_together() -> None:
    here, there = os.pipe(), os.pipe()
    pipes = {("a",): (here[1], there[0]), ("b",): (there[1], here[0])}

    def met(names: Names) -> int:
        mine, other = pipes[names]
        os.write(mine, b".")
        return 0 if os.read(other, 1) == b"." else 1

    assert dict(forked(list(pipes), 2, met, always)) == {("a",): 0, ("b",): 0}


def test_none_begins_once_it_shall_not_go_on() -> None:
    ends = {("a",): 0, ("b",): 5, ("never",): 0}
    codes: list[int] = []
    for _, code in forked(list(ends), 1, ends.__getitem__, lambda: 5 not in codes):
        codes.append(code)
    assert codes == [0, 5]


def test_a_job_that_is_told_to_stop_tells_its_forks_and_waits_for_them() -> None:
    def until_told(names: Names) -> int:
        os.kill(os.getppid(), signal.SIGTERM)
        until(stop.asked, "the signal")
        return 7

    with stop.heeded():
        codes = dict(forked([("a",), ("b",), ("never",)], 2, until_told, lambda: not stop.asked()))
    assert codes in ({("a",): 7}, {("a",): 7, ("b",): 7})


def test_forks_are_told_to_stop_when_their_job_dies(tmp_path: Path) -> None:
    def until_told(names: Names) -> int:
        (tmp_path / names[0]).touch()
        until(stop.asked, "the signal")
        (tmp_path / names[0]).write_text(stop.asked())
        return 0

    with stop.heeded():
        job = multiprocessing.get_context("fork").Process(target=lambda: list(forked([("a",)], 1, until_told, always)))
        job.start()
        until((tmp_path / "a").exists, "the fork to begin")
        job.kill()
        until((tmp_path / "a").read_text, "the fork to leave")
    assert (tmp_path / "a").read_text() == "SIGTERM"


def test_a_cell_whose_fork_was_killed_is_lost_while_its_job_goes_on_unless_it_had_ended(
    plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = plan([["method=dpo"], ["method=rdpo"], ["method=ipo"], ["method=cdpo"]])
    names = tuple(cell.run for cell in manifest.cells)
    sent = time.time()
    manifest = manifest.sent([Job("7", "local", names, sent)])
    monkeypatch.setattr("launchers.states._runs", lambda process: True)
    killed, done_meanwhile, failed_meanwhile, failed_before = manifest.runs()
    for run in manifest.runs():
        run.folder.mkdir(parents=True)
        run.mark("running")
    done_meanwhile.results.touch()
    done_meanwhile.mark("done")
    failed_meanwhile.mark("failed")
    failed_before.mark("failed", time=sent - 1)
    for run in manifest.runs():
        lost(run, "SIGKILL", sent)
    assert [known_states(manifest)[name].state for name in names] == ["lost", "done", "failed", "lost"]
    manifest = manifest.sent([Job("8", "local", names[:1], killed.status()["time"] + 1)])
    assert known_states(manifest)[names[0]].state == "queued"


def test_a_local_sweep_without_a_gpu_is_one_job_of_forks_and_with_one_it_is_not(
    plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options.of({"cluster": "local", "jobs": 2, **GIVEN})
    manifest = plan([[f"seed={seed}"] for seed in range(3)])
    names = [cell.run for cell in manifest.cells]
    found = {name: State("new", {}, None) for name in names}
    (batch,) = batches(manifest, found, names, options)
    assert [(work.runs, work.forks, work.shared) for work in batch.works] == [(tuple(names), 2, False)]
    monkeypatch.setattr("launchers.jobs.gpus", lambda manifest: [0, 1])
    (batch,) = batches(manifest, found, names, options)
    assert [(work.forks, work.shared) for work in batch.works] == [(0, True)] * 2


def test_the_cells_of_a_job_on_slurm_work_side_by_side_where_that_is_asked_for(plan: Any) -> None:
    manifest = plan([[f"seed={seed}"] for seed in range(4)])
    names = [cell.run for cell in manifest.cells]
    found = {name: State("new", {}, None) for name in names}
    (batch,) = batches(manifest, found, names, PACKED)
    assert [(len(work.runs), work.forks) for work in batch.works] == [(3, 2), (1, 0)]


def test_forks_are_refused_where_a_cell_may_use_a_gpu(plan: Any) -> None:
    auto = [override for override in SMALL if override != "trainer=cpu"]
    with pytest.raises(PrefoptError, match=r"at_once=2, and cell 0 may use a GPU.*\n.*trainer=cpu"):
        fitting(plan([["trainer=auto"]], base=auto), PACKED)


def test_more_cells_at_once_than_a_job_has_are_refused() -> None:
    with pytest.raises(PrefoptError, match=r"at_once=4, and a job has 2 cells"):
        Options.of({"cluster": "slurm", "cells_per_job": 2, "at_once": 4, **GIVEN})
