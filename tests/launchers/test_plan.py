"""What a sweep consists of is found out, and what cannot work refused, before anything is sent."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launchers.cancel import withdraw
from launchers.jobs import batches, gpus
from launchers.options import Options
from launchers.plan import Sweep
from launchers.preflight import accepted, fitting, minutes
from launchers.show import show_plan
from launchers.states import State
from prefopt import train
from prefopt.batch import Pairs
from prefopt.config import CONF, check_choices, composed, sweep_name
from prefopt.datasets.text import TextDataset
from prefopt.errors import PrefoptError
from prefopt.manifest import MANIFEST, Cell, Job, Manifest
from prefopt.store import CHECKOUT
from tests.launchers.conftest import SMALL

TWO = [["method=dpo"], ["method=rdpo"]]


def job(id: str, *runs: str) -> Job:
    return Job(id, "slurm", runs, 1.5)


def test_a_cell_is_the_run_that_the_same_command_makes_alone(plan: Any) -> None:
    from prefopt.config import composed
    from prefopt.run import Parts

    manifest = plan(TWO)
    alone = [Parts(composed([*SMALL, *cell])).fingerprint() for cell in TWO]
    assert [cell.run.rsplit("-", 1)[-1] for cell in manifest.cells] == alone
    assert [cell.overrides for cell in manifest.cells] == [("method=dpo",), ("method=rdpo",)]


def test_what_cells_need_is_a_stage_once(plan: Any) -> None:
    text = ["dataset=reviews", "model=tiny", "dataset.pairs=64", "dataset.demonstrations=64"]
    cells = [[*text, f"method={method}", f"noise.rate={rate}"] for method in ("dpo", "rdpo") for rate in (0.1, 0.2)]
    manifest = plan([*cells, [*text, "method=best_of_n"]])
    kinds = [stage.run.split("-")[0] for stage in manifest.stages]
    assert kinds == ["sft", "bradley_terry"], "the first needed comes first"


def test_a_file_is_read_once_for_all_cells(plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"what is {i}?", "chosen": f"it is {i}", "rejected": "no idea"} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = []
    monkeypatch.setattr(TextDataset, "checksum", lambda dataset: read.append(dataset) or "content")
    text = ["dataset=pairs", f"dataset.path={path}", "model=tiny"]
    manifest = plan(
        [[*text, f"method={method}", f"seed={seed}"] for method in ("dpo", "rdpo") for seed in (0, 1)], base=()
    )
    assert len(manifest.cells) == 4 and len(manifest.stages) == 2
    assert len(read) == 1


def test_cells_that_are_one_run_collide(plan: Any) -> None:
    with pytest.raises(PrefoptError, match=r"cells 0 \(tracking.every_s=1\) and 1 \(tracking.every_s=2\) are one run"):
        plan([["tracking.every_s=1"], ["tracking.every_s=2"]])


def test_a_cell_that_cannot_work_is_named_before_anything_is_sent(plan: Any) -> None:
    with pytest.raises(PrefoptError, match=r"cell 1 \(method=sft\): model=log_linear has no recipe"):
        plan([["method=dpo"], ["method=sft"]])


def test_a_swept_configuration_cannot_choose_the_launcher(plan: Any, tmp_path: Path) -> None:
    (tmp_path / "conf" / "study").mkdir(parents=True)
    study = "# @package _global_\ndefaults:\n  - override /hydra/launcher: slurm\n"
    (tmp_path / "conf" / "study" / "big.yaml").write_text(study)
    with pytest.raises(PrefoptError, match="a file of its configuration overrides hydra/launcher, with slurm"):
        plan([["+study=big"]], hydra_overrides=[f"hydra.searchpath=[file://{tmp_path}/conf]"])


def test_a_folder_holds_one_sweep_which_may_grow(plan: Any) -> None:
    first = plan(TWO)
    first.sent([job("7", first.cells[0].run)])
    grown = plan([*TWO, ["method=cdpo"]])
    assert len(grown.cells) == 3 and [job.id for job in grown.jobs] == ["7"]
    assert Manifest.read(grown.folder) == grown
    with pytest.raises(PrefoptError, match="holds another sweep: of its 3 cells this one lacks 1"):
        plan(TWO)
    assert Manifest.read(grown.folder) == grown


def test_a_manifest_cut_at_any_byte_is_refused_or_whole_and_mended_by_sending_again(plan: Any) -> None:
    manifest = plan(TWO).sent([job("7", "a"), job("8", "b")])
    path = manifest.folder / MANIFEST
    whole = path.read_bytes()
    planned_size = len(b"".join(whole.splitlines(keepends=True)[:3]))
    for cut in {0, 1, planned_size - 1, planned_size, planned_size + 1, len(whole) - 1, len(whole) // 2}:
        path.write_bytes(whole[:cut])
        if cut >= planned_size:
            assert Manifest.read(manifest.folder).cells == manifest.cells
        else:
            with pytest.raises(PrefoptError, match="send the same sweep again"):
                Manifest.read(manifest.folder)
        assert plan(TWO).cells == manifest.cells
        assert Manifest.read(manifest.folder).cells == manifest.cells


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_job_is_appended_after_whatever_a_full_disk_left(tmp_path: Path, data: st.DataObject) -> None:
    manifest = Manifest(tmp_path, ("x=1,2",), {"cluster": "local"}, tmp_path, (), ())
    manifest.write()
    manifest = manifest.sent([job("1", "a", "b")])
    path = tmp_path / MANIFEST
    torn = data.draw(st.integers(0, 20).map(lambda n: json.dumps({"id": "2", "runs": ["c"]})[:n]))
    with path.open("a") as file:
        file.write(torn)
    after = Manifest.read(tmp_path).sent([job("3", "d")])
    assert [job.id for job in after.jobs] == ["1", "3"]
    assert Manifest.read(tmp_path) == after


@pytest.mark.parametrize("path", sorted((CHECKOUT / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_corners_of_every_sweep_can_be_planned(plan: Any, path: Path) -> None:
    swept = yaml.safe_load(path.read_text())["hydra"]["sweeper"]["params"]
    values = {key: str(value).split(",") for key, value in swept.items()}
    corners = [[f"+sweep={path.stem}", *(f"{key}={value[k]}" for key, value in values.items())] for k in (0, -1)]
    assert len(plan(corners, base=()).cells) == 2


def test_the_noise_grid_holds_every_pairwise_method_that_both_worlds_feed_and_a_round_is_enough_for() -> None:
    def fed_by_both(name: str) -> bool:
        node = composed([f"method={name}"]).method
        method, scored = get_class(node._target_), "odpo" in str(node)
        both = method.worlds == {"text", "exact"} and method.eats is Pairs and not scored
        return both and method.least_rounds == 1 and method.__module__.split(".")[2] == "pairwise"

    names = {path.stem for path in (CONF / "method").glob("*.yaml")}
    swept = yaml.safe_load((CHECKOUT / "sweeps" / "noise_grid.yaml").read_text())["hydra"]["sweeper"]["params"]
    assert {name.strip() for name in swept["method"].split(",")} == {name for name in names if fed_by_both(name)}


def test_a_sweep_is_named_after_its_file_and_what_else_it_was_sent_with() -> None:
    assert sweep_name(["+sweep=smoke"]) == "smoke"
    assert sweep_name(["+sweep=smoke", "seed=0,1"]).startswith("smoke-")
    assert sweep_name(["a=1", "b=2"]) == sweep_name(["b=2", "a=1"]) != sweep_name(["a=1", "b=3"])


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("infinite", float("inf")), ("30:00", 30), ("1:00:00", 60), ("2-01:00:00", 2 * 24 * 60 + 60), ("15", 15)],
)
def test_a_time_limit_is_read_as_slurm_writes_it(limit: str, expected: float) -> None:
    assert minutes(limit) == expected


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"cluster": "slurm", "tasks_per_node": 2}, "trainer.devices=1 .* job has 2 tasks on each of 1 nodes"),
        ({"cluster": "slurm", "nodes": 2}, "job has 1 tasks on each of 2 nodes"),
    ],
)
def test_one_task_for_each_device(plan: Any, given: dict[str, Any], says: str) -> None:
    options = Options.of({"submit": True, "wait": True, "on_error": "continue", **given})
    with pytest.raises(PrefoptError, match=says):
        fitting(plan(TWO), options)


@pytest.mark.parametrize(
    ("key", "value"), [("on_error", "ignore"), ("cluster", "pbs"), ("cells_per_job", 0), ("jobs", 0)]
)
def test_an_option_that_makes_no_sense_is_refused(key: str, value: Any) -> None:
    given = {"cluster": "local", "submit": True, "wait": True, "on_error": "continue", key: value}
    with pytest.raises(PrefoptError, match=f"hydra.launcher.{key}={value}"):
        Options.of(given)


def test_a_launcher_without_a_sweep_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("sys.argv", ["train", "method=dpo", "hydra/launcher=slurm"])
    with pytest.raises(SystemExit, match="2"):
        train.main()
    assert "add -m" in capsys.readouterr().err


def test_an_unknown_launcher_is_told_with_the_nearest_names() -> None:
    with pytest.raises(PrefoptError, match="did you mean slurm"):
        check_choices(["hydra/launcher=slrm"])
    check_choices(["hydra/launcher=basic"])


def test_a_setup_that_is_no_list_is_refused() -> None:
    given = {"cluster": "slurm", "submit": True, "wait": True, "on_error": "continue", "setup": "module load cuda"}
    with pytest.raises(PrefoptError, match="setup=module load cuda is one text"):
        Options.of(given)


@pytest.mark.parametrize(
    ("setting", "says"),
    [("hydra.sweep.dir=''", "hydra.sweep.dir is empty"), ("hydra.sweeper.max_batch_size=2", "would part the sweep")],
)
def test_hydras_own_settings_may_not_part_a_sweep(setting: str, says: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = compose("config", overrides=[setting], return_hydra_config=True).hydra
    with pytest.raises(PrefoptError, match=says):
        Sweep.of(hydra, [])


def test_brackets_in_paths_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    override = "dataset.path=/[/d]/x[bold]y"
    cell = Cell(0, "dpo-pairs-1a2b", (override,), {"method": {}, "trainer": {"accelerator": "cpu"}})
    manifest = Manifest(tmp_path / "a [b] c", (), {"cluster": "local"}, tmp_path, (), (cell,))
    options = Options.of({"cluster": "local", "submit": False, "wait": True, "on_error": "continue", "jobs": 1})
    found = {cell.run: State("new", {}, None)}
    show_plan(manifest, found, batches(manifest, found, [cell.run], options), options)
    said = capsys.readouterr().err
    assert override in said.replace("\n", "") and "a [b] c" in said


def test_an_array_is_no_longer_than_the_cluster_takes(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = plan([[f"seed={seed}"] for seed in range(5)])
    options = Options.of({"cluster": "slurm", "submit": True, "wait": True, "on_error": "continue", "timeout_min": 9})
    found = {cell.run: State("new", {}, None) for cell in manifest.cells}
    (batch,) = batches(manifest, found, [cell.run for cell in manifest.cells], options)
    monkeypatch.setattr("launchers.preflight._answer", lambda command: "MaxArraySize            = 4\n")
    with pytest.raises(PrefoptError, match=r"5 jobs in an array, and this cluster takes 3\n  mend: .*cells_per_job=2"):
        accepted(manifest, options, batch)


def test_nothing_is_withdrawn_where_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr("launchers.cancel.subprocess.run", lambda command, **_: called.append(command))
    withdraw(job for job in ())
    assert called == []
    withdraw(["12_1", "12_0"])
    assert called == [["scancel", "--quiet", "--state=PENDING", "12_0", "12_1"]]


def test_a_local_sweep_keeps_to_the_gpus_that_may_be_seen(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = plan([["trainer.accelerator=auto"]], base=[o for o in SMALL if o != "trainer=cpu"])
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert gpus(on_gpu) == [0, 1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert gpus(on_gpu) == [4, 5]


def test_only_a_server_is_written_to_by_the_jobs_themselves(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    (cell,) = plan([["method=dpo"]]).cells
    assert cell.config["tracking"]["send"] is True
    assert cell.config["tracking"]["uri"] == "http://127.0.0.1:1"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    cell, _ = plan(TWO).cells
    assert (cell.config["tracking"]["send"], cell.config["tracking"]["uri"]) == (False, None)
