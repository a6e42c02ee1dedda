"""The deployment for a group: an MLflow server over a real PostgreSQL, with a directory of artifacts."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prefopt.tracking import sweep
from prefopt.tracking.events import EVENTS
from prefopt.tracking.following import Following
from prefopt.tracking.record import begin, end
from prefopt.tracking.sync import deliver

BIN = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
OWNER = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to be root

pytestmark = pytest.mark.skipif(BIN is None and not os.environ.get("CI"), reason="needs PostgreSQL")


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A fresh database of a PostgreSQL that listens on a socket alone; its URI."""
    assert BIN is not None, "CI needs PostgreSQL: apt-get install postgresql"
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # a socket's path is at most 107 bytes long
    if OWNER:
        shutil.chown(folder, OWNER)
    user = OWNER or os.environ.get("USER", "postgres")

    def call(*command: str) -> None:
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]], user=OWNER, cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    data, log = str(folder / "data"), str(folder / "log")
    call("initdb", "--pgdata", data, "--auth", "trust", "--username", user, "--no-sync")
    settings = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
    call("pg_ctl", "start", "--wait", "--pgdata", data, "--log", log, "--options", settings)
    try:
        call("createdb", "--host", str(folder), "--username", user, "mlflow")
        yield f"postgresql://{user}@/mlflow?host={folder}"
    finally:
        call("pg_ctl", "stop", "--pgdata", data, "--mode", "immediate")
        shutil.rmtree(folder)


def counted(uri: str) -> list[tuple[str, int, int]]:
    """Of each run: its name, its metrics and how many there are, asked of the database itself."""
    from sqlalchemy import create_engine, text

    engine = create_engine(uri)
    with engine.connect() as connection:
        query = "SELECT name, count(DISTINCT key), count(*) FROM metrics JOIN runs USING (run_uuid) GROUP BY name"
        rows = [tuple(row) for row in connection.execute(text(f"{query} ORDER BY name"))]
    engine.dispose()
    return rows


def test_a_sweep_goes_through_a_server_to_postgresql_whole(
    tmp_path: Path, postgres: str, serving: Any, fill: Callable[[Path, range], None], view: Any
) -> None:
    server = serving(postgres)
    server.start()
    grid, cells = tmp_path / "sweeps" / "grid", [tmp_path / f"cell{number}" for number in range(4)]
    sweep.begin(grid, "grid", {"method": "dpo,rdpo"}, {}, "study")
    following = Following(tmp_path, server.uri, every_s=0.2)
    following.add(grid, *cells)
    for cell in cells:
        cell.mkdir()
        begin(cell, "study", cell.name, {"seed": 0}, {}, grid)
        fill(cell / EVENTS, range(300))
        (cell / "config.yaml").write_text("seed: 0\n")
        end(cell, "FINISHED", [cell / "config.yaml"])
    sweep.end(grid, "FINISHED")
    assert set(following.finish([*cells, grid], 300).values()) == {None}

    assert counted(postgres) == [(cell.name, 5, 1500) for cell in cells]
    shows = view(server.uri)
    parent = shows.run(grid, "study").info.run_id
    assert [shows.run(cell, "study").data.tags["mlflow.parentRunId"] for cell in cells] == [parent] * 4
    assert sorted(path.read_text() for path in (tmp_path / "artifacts").rglob("config.yaml")) == ["seed: 0\n"] * 4


def test_without_a_server_runs_go_to_postgresql_too(
    tmp_path: Path, postgres: str, record_run: Callable[..., Path], view: Any
) -> None:
    folder = record_run(tmp_path / "direct", "direct")
    assert deliver([folder], tmp_path, postgres) == {folder: None}
    view(postgres).check(folder, range(20), "direct")
