"""MLflow's own comparison page over a sweep's cells, in a real browser."""

import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from prefopt.tracking import sweep
from prefopt.tracking.database import store_uri
from prefopt.tracking.events import EVENTS
from prefopt.tracking.record import begin, end
from prefopt.tracking.sync import deliver

CHROMIUM = shutil.which("chromium")
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--virtual-time-budget=60000",
    "--dump-dom",
]


@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="needs chromium")
def test_the_cells_of_a_sweep_are_compared_by_name_parameter_and_metric(
    tmp_path: Path, serving: Any, fill: Callable[[Path, range], None], view: Any
) -> None:
    grid, folders = tmp_path / "sweeps" / "grid", []
    sweep.begin(grid, "grid", {}, {}, "prefopt")
    for method in ("cdpo", "dpo", "rdpo"):
        for rate in (0.0, 0.1, 0.2, 0.4):
            for seed in (0, 1):
                folder = tmp_path / f"{method}-{rate}-{seed}"
                folder.mkdir()
                params = {"choices": {"method": method}, "noise": {"rate": rate}, "seed": seed}
                begin(folder, "prefopt", folder.name, params, {"method": method}, grid)
                fill(folder / EVENTS, range(20))
                end(folder, "FINISHED")
                folders.append(folder)
    uri = store_uri(tmp_path)
    assert set(deliver([grid, *folders], tmp_path, uri).values()) == {None}
    runs = [view(uri).run(folder).info for folder in folders]
    server = serving(uri)
    server.start()

    ids, experiments = quote(json.dumps([run.run_id for run in runs])), quote(json.dumps([runs[0].experiment_id]))
    page = f"{server.uri}/#/compare-runs?runs={ids}&experiments={experiments}"
    command = [str(CHROMIUM), *OPTIONS, f"--user-data-dir={tmp_path / 'browser'}", page]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    words = html.unescape(re.sub(r"<(style|script).*?</\1>|<[^>]+>", " ", done.stdout, flags=re.DOTALL)).split()
    assert "Comparing 24 Runs from 1 Experiment" in " ".join(words)
    expected = {folder.name for folder in folders} | {run.run_id for run in runs}
    expected |= {"choices.method", "noise.rate", "seed"} | {f"m{k}" for k in range(5)}
    assert expected - set(words) == set()
