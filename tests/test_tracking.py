"""Tracking: nothing measured is lost or doubled, whatever is interrupted; and the figures of a run."""

import errno
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from prefopt.errors import PrefoptError
from prefopt.evaluation.figures import learning_curves, margin_histogram, samples_table
from prefopt.tracking import mlflow as tracking
from prefopt.tracking import ui
from prefopt.tracking.environment import environment, git
from prefopt.tracking.events import EVENTS, EventFile, read
from prefopt.tracking.mlflow import MlflowTracker, NoTracker, store_uri
from prefopt.tracking.record import RECEIPT, Receipt, Record, flatten
from prefopt.tracking.sender import Run, serve
from prefopt.tracking.sync import delivered
from prefopt.tracking.telemetry import SWITCHES, silence

pytestmark = pytest.mark.xdist_group("mlflow")  # one store for all of them
CHECKOUT = Path(__file__).resolve().parent.parent


def steps_in(path: Path) -> list[int]:
    return [event.step for event in read(path)]


def fill(path: Path, steps: range) -> None:
    """Five metrics a step, as a run writes them."""
    events = EventFile(path)
    for step in steps:
        events.write(step, {f"m{k}": step + k / 10 for k in range(5)})
    events.close()


# The event file


def test_events_come_back_as_they_were_written(tmp_path: Path) -> None:
    events = EventFile(tmp_path / EVENTS)
    events.write(1, {"loss": 0.5, "rewards/accuracies": 1})
    events.write(2, {"loss": float("nan")})
    events.flush()
    first, second = read(tmp_path / EVENTS)
    assert (first.step, first.metrics) == (1, {"loss": 0.5, "rewards/accuracies": 1.0})
    assert second.step == 2
    assert np.isnan(second.metrics["loss"])
    assert 1.7e9 < first.time <= second.time
    assert second.end == (tmp_path / EVENTS).stat().st_size
    assert [event.step for event in read(tmp_path / EVENTS, start=first.end)] == [2]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=5))
def test_after_any_number_of_rewinds_every_step_is_there_once(
    tmp_path_factory: pytest.TempPathFactory, checkpoints: list[int]
) -> None:
    path = tmp_path_factory.mktemp("run") / EVENTS
    fill(path, range(20))
    for step in checkpoints:
        events = EventFile(path)
        events.rewind(step)
        for later in range(step + 1, 20):
            events.write(later, {"m0": 0.0})
        events.close()
    assert steps_in(path) == list(range(20))


def test_a_rewind_to_before_the_first_step_empties_the_file(tmp_path: Path) -> None:
    fill(tmp_path / EVENTS, range(5))
    EventFile(tmp_path / EVENTS).rewind(-1)
    assert (tmp_path / EVENTS).read_bytes() == b""


def test_a_file_cut_at_any_byte_keeps_its_whole_lines_and_goes_on(tmp_path: Path) -> None:
    events = EventFile(tmp_path / "whole")
    events.write(0, {"loss": 0.5})
    events.write(1, {"loss": 0.4})
    events.close()
    whole = (tmp_path / "whole").read_bytes()
    path = tmp_path / EVENTS
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        kept = list(range(whole[:size].count(b"\n")))
        assert steps_in(path) == kept
        fill(path, range(7, 8))
        assert steps_in(path) == [*kept, 7]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / EVENTS
    path.write_text('{"step": 1, "time": 0, "metrics": {}}\n{"step": 2, "tim\n{"step": 3, "time": 0, "metrics": {}}\n')
    with pytest.raises(PrefoptError, match=r"(?s)line at byte 38 is no event.*mend: delete this line") as error:
        list(read(path))
    assert str(path) in str(error.value)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    events = EventFile(tmp_path / EVENTS)
    events.write(1, {"loss": 0.0})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PrefoptError, match=r"(?s)metrics.jsonl: No space left.*mend: make room"):
        events.flush()


# What is recorded


def test_params_are_flat_strings_of_bounded_length() -> None:
    nested = {"noise": {"rate": 0.2, "kind": "flip"}, "layers": [1, 2], "clip": None, "long": "x" * 9000, "none": {}}
    assert flatten(nested) == {
        "noise.rate": "0.2",
        "noise.kind": "flip",
        "layers": "[1, 2]",
        "clip": "None",
        "long": "x" * 6000,
        "none": "{}",
    }


def test_the_environment_is_json_and_says_what_matters() -> None:
    facts = json.loads(json.dumps(environment()))
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["packages"]["torch"]
    assert facts["cpus"] >= 1


def test_git_tells_commit_and_changes_of_this_checkout_only(tmp_path: Path) -> None:
    nothing = {"commit": None, "dirty": None}
    assert git(tmp_path) == nothing
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    assert git(tmp_path) == nothing
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", tmp_path, *identity, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    clean = git(tmp_path)
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "new.py").touch()
    assert git(tmp_path) == clean | {"dirty": True}
    assert git(tmp_path / "installed") == nothing


def test_silence_switches_telemetry_off_and_respects_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SWITCHES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISABLE_TELEMETRY", "yes")
    silence()
    assert {name: os.environ[name] for name in SWITCHES} == SWITCHES | {"DISABLE_TELEMETRY": "yes"}


def test_a_run_imports_neither_mlflow_nor_matplotlib() -> None:
    program = (
        "import sys, prefopt.tracking.mlflow, prefopt.tracking.environment, prefopt.evaluation.figures\n"
        "print({'mlflow', 'matplotlib', 'torch', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_tracking_configs_give_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    given = {
        path.stem: instantiate(OmegaConf.load(path), home=tmp_path)
        for path in (CHECKOUT / "conf" / "tracking").glob("*.yaml")
    }
    assert {name: type(tracker) for name, tracker in given.items()} == {"mlflow": MlflowTracker, "none": NoTracker}
    assert given["mlflow"].uri == f"sqlite:///{tmp_path}/mlflow.db"


def test_no_tracker_leaves_nothing(tmp_path: Path) -> None:
    tracker = NoTracker(home=tmp_path)
    tracker.start(tmp_path, "run", {}, {})
    tracker.finish("FINISHED", [])
    assert list(tmp_path.iterdir()) == []


# MLflow


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, str]]]:
    """A home whose store four processes made together, each for a run of its own, and how they ended."""
    home = tmp_path_factory.mktemp("home")
    for k in range(4):
        (home / f"raced{k}").mkdir()
        Record(f"raced{k}", "raced", f"raced{k}", {}, {}, 1.7e9, 1.7e9, "FINISHED").save(home / f"raced{k}")
        fill(home / f"raced{k}" / EVENTS, range(20))
    command = [sys.executable, "-m", "prefopt.tracking.sync", "--uri", store_uri(home)]
    racing = [
        subprocess.Popen([*command, home / f"raced{k}"], cwd=CHECKOUT, stderr=subprocess.PIPE, text=True)
        for k in range(4)
    ]
    words = [process.communicate()[1] for process in racing]
    return home, [(process.returncode, word) for process, word in zip(racing, words, strict=True)]


@pytest.fixture
def lab(raced: tuple[Path, list[tuple[int, str]]]) -> Path:
    """A home with a store."""
    return raced[0]


@pytest.fixture
def run_dir(lab: Path, request: pytest.FixtureRequest) -> Path:
    folder = lab / request.node.name
    folder.mkdir()
    return folder


def started(lab: Path, run_dir: Path, uri: str | None = None, **params: object) -> MlflowTracker:
    tracker = MlflowTracker(home=lab, uri=uri, every_s=0.05)
    tracker.start(run_dir, run_dir.name, {"method": "rdpo", **params}, {"seed": "0"})
    return tracker


def client(uri: str):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def only_run(run_dir: Path, uri: str, experiment: str = "prefopt"):
    """The run of this directory in MLflow, which must be there once."""
    mlflow = client(uri)
    found = mlflow.search_runs(
        [mlflow.get_experiment_by_name(experiment).experiment_id], f"attributes.run_name = '{run_dir.name}'"
    )
    assert len(found) == 1
    return found[0]


def check_each_step_is_there_once(run_dir: Path, uri: str, steps: range, experiment: str = "prefopt") -> None:
    run = only_run(run_dir, uri, experiment)
    for k in range(5):
        history = client(uri).get_metric_history(run.info.run_id, f"m{k}")
        assert sorted((point.step, point.value) for point in history) == [(step, step + k / 10) for step in steps]


def test_processes_that_make_the_store_together_all_succeed(raced: tuple[Path, list[tuple[int, str]]]) -> None:
    home, ends = raced
    assert [code for code, _ in ends] == [0, 0, 0, 0], ends
    for k in range(4):
        check_each_step_is_there_once(home / f"raced{k}", store_uri(home), range(20), "raced")


def test_a_run_is_in_mlflow_whole(lab: Path, run_dir: Path) -> None:
    many = {f"p{k}": k for k in range(150)}
    tracker = started(lab, run_dir, many=many, noise={"rate": 0.2}, text="x" * 7000)
    fill(run_dir / EVENTS, range(300))
    events = EventFile(run_dir / EVENTS)
    events.write(300, {"bad": float("nan")})
    events.close()
    (run_dir / "figures").mkdir()
    (run_dir / "figures" / "curve.svg").write_text("<svg/>")
    (run_dir / "config.yaml").write_text("seed: 0\n")
    tracker.finish("FINISHED", [run_dir / "config.yaml", run_dir / "figures" / "curve.svg"])

    run = only_run(run_dir, tracker.uri)
    check_each_step_is_there_once(run_dir, tracker.uri, range(300))
    assert run.info.status == "FINISHED"
    assert run.data.params == {"method": "rdpo", "noise.rate": "0.2", "text": "x" * 6000} | {
        f"many.p{k}": str(k) for k in range(150)
    }
    assert run.data.tags["seed"] == "0"
    assert np.isnan(run.data.metrics["bad"])
    assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(lab / "mlartifacts")
    listed = [item.path for item in client(tracker.uri).list_artifacts(run.info.run_id)]
    assert listed == ["config.yaml", "figures"]
    assert [item.path for item in client(tracker.uri).list_artifacts(run.info.run_id, "figures")] == [
        "figures/curve.svg"
    ]
    receipt = Receipt.load(run_dir)
    assert receipt is not None
    assert receipt.run_id == run.info.run_id
    assert delivered(run_dir, tracker.uri)


def test_a_run_that_resumes_goes_on_in_the_same_mlflow_run(lab: Path, run_dir: Path) -> None:
    tracker = started(lab, run_dir, rounds=1)
    fill(run_dir / EVENTS, range(300))
    tracker.finish("KILLED")
    assert only_run(run_dir, tracker.uri).info.status == "KILLED"

    tracker = started(lab, run_dir, rounds=2, added=1)
    EventFile(run_dir / EVENTS).rewind(119)
    fill(run_dir / EVENTS, range(120, 400))
    tracker.finish("FINISHED")
    check_each_step_is_there_once(run_dir, tracker.uri, range(400))
    run = only_run(run_dir, tracker.uri)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"method": "rdpo", "rounds": "1", "added": "1"}
    assert run.data.tags["prefopt.changed"] == "rounds"


def test_a_file_rewound_while_it_is_sent_loses_and_doubles_nothing(lab: Path, run_dir: Path) -> None:
    Record("live", "prefopt", run_dir.name, {}, {}, 1.7e9).save(run_dir)
    fill(run_dir / EVENTS, range(50))
    run = Run(run_dir, lab, store_uri(lab))
    assert run.send() is None
    EventFile(run_dir / EVENTS).rewind(9)
    events = EventFile(run_dir / EVENTS)
    for step in range(10, 200):  # shorter lines: the place that was reached before lies among steps not yet sent
        events.write(step, {"m0": step})
    events.close()
    assert run.send() is None
    run.release()
    history = client(store_uri(lab)).get_metric_history(only_run(run_dir, store_uri(lab)).info.run_id, "m0")
    assert sorted(point.step for point in history) == list(range(200))


def test_what_was_sent_without_a_receipt_is_not_sent_again(lab: Path, run_dir: Path) -> None:
    Record("twice", "prefopt", run_dir.name, {}, {}, 1.7e9, 1.7e9, "FINISHED").save(run_dir)
    fill(run_dir / EVENTS, range(40))
    assert Run(run_dir, lab, store_uri(lab)).send() is None
    (run_dir / RECEIPT).unlink()
    fill(run_dir / EVENTS, range(40, 60))
    assert Run(run_dir, lab, store_uri(lab)).send() is None
    check_each_step_is_there_once(run_dir, store_uri(lab), range(60))


def test_two_senders_of_one_run_do_not_double_it(lab: Path, run_dir: Path) -> None:
    record = Record("both", "prefopt", run_dir.name, {}, {}, 1.7e9)
    record.save(run_dir)
    fill(run_dir / EVENTS, range(10))
    first, second = (Run(run_dir, lab, store_uri(lab)) for _ in range(2))
    assert first.send() is None
    assert second.send() == "another process is sending it"
    replace(record, status="FAILED").save(run_dir)
    assert first.send() is None
    assert second.send() is None
    check_each_step_is_there_once(run_dir, store_uri(lab), range(10))
    assert only_run(run_dir, store_uri(lab)).info.status == "FAILED"


def test_a_run_whose_process_is_gone_is_sent_to_the_end_and_called_killed(lab: Path, run_dir: Path) -> None:
    Record("gone", "prefopt", run_dir.name, {}, {}, 1.7e9).save(run_dir)
    fill(run_dir / EVENTS, range(30))
    ours, theirs = Pipe()
    ours.send((run_dir, lab, store_uri(lab), 20.0, False))
    ours.close()
    serve(theirs)
    check_each_step_is_there_once(run_dir, store_uri(lab), range(30))
    assert only_run(run_dir, store_uri(lab)).info.status == "KILLED"


def test_a_sender_that_dies_is_replaced(lab: Path, run_dir: Path) -> None:
    tracker = started(lab, run_dir)
    process = tracking._sender(lab).process
    process.kill()
    process.wait()
    fill(run_dir / EVENTS, range(30))
    tracker.finish("FINISHED")
    check_each_step_is_there_once(run_dir, tracker.uri, range(30))


def test_an_unreachable_server_costs_a_warning_and_gets_all_of_it_later(
    lab: Path, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    tracker = started(lab, run_dir, f"http://127.0.0.1:{port}")
    fill(run_dir / EVENTS, range(250))
    (run_dir / "config.yaml").write_text("seed: 0\n")
    with caplog.at_level(logging.WARNING):
        tracker.finish("FINISHED", [run_dir / "config.yaml"])
    (warning,) = caplog.messages
    assert "Connection refused" in warning
    command = warning.partition("send it later: python ")[2].split()
    assert command == ["-m", "prefopt.tracking.sync", "--uri", tracker.uri, str(run_dir)]
    assert not delivered(run_dir, tracker.uri)

    with interface(lab, port):
        done = subprocess.run([sys.executable, *command], cwd=CHECKOUT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        again = subprocess.run([sys.executable, *command], cwd=CHECKOUT, capture_output=True, text=True)
        assert again.stdout.endswith("nothing to send\n")
        check_each_step_is_there_once(run_dir, tracker.uri, range(250))
        with urllib.request.urlopen(f"{tracker.uri}/") as page:
            assert b"<title>MLflow" in page.read()
        with pytest.raises(PrefoptError, match=rf"(?s)port {port} of 127.0.0.1 cannot be opened.*--port {port + 1}"):
            ui.check_free(port)


@contextmanager
def interface(home: Path, port: int) -> Iterator[None]:
    """`python -m prefopt.tracking.ui`, from when it answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "prefopt.tracking.ui", "--port", str(port)],
        cwd=CHECKOUT,
        env=os.environ | {"PREFOPT_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if "Uvicorn running" in line:
                break
        assert said[0] == f"MLflow over {home} opens at http://127.0.0.1:{port} in a few seconds; Ctrl-C ends it\n"
        assert process.poll() is None, "".join(said)
        yield
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate()


# Figures


def test_learning_curves_draw_what_was_recorded(tmp_path: Path) -> None:
    events = EventFile(tmp_path / EVENTS)
    for step in range(100):
        events.write(step, {"loss": 0.7 - step / 1000} | ({"gold/reward": step / 100} if step % 25 == 0 else {}))
    events.close()
    png, svg = learning_curves(tmp_path / EVENTS, tmp_path / "figures")
    check_picture(png, svg)
    drawn = svg.read_text()
    assert drawn.count('id="axes_') == 2
    assert [drawn.count(f"<!-- {text} -->") for text in ("Loss", "Gold reward", "Regret", "training")] == [1, 1, 0, 1]


def test_nothing_recorded_draws_nothing(tmp_path: Path) -> None:
    fill(tmp_path / EVENTS, range(3))
    assert learning_curves(tmp_path / EVENTS, tmp_path) == []


@pytest.mark.parametrize("case", ["mixed", "clean", "equal", "infinite"])
def test_margins_are_drawn_apart_for_clean_and_flipped_pairs(tmp_path: Path, case: str) -> None:
    flipped = np.arange(400) % 4 == 0
    margins = np.where(flipped, -1.0, 1.0) + np.random.default_rng(0).uniform(-0.9, 0.9, 400)
    if case == "clean":
        flipped = np.zeros(400, dtype=bool)
    if case == "equal":
        margins = np.zeros(400)
    if case == "infinite":
        margins[0] = np.inf
    png, svg = margin_histogram(margins, flipped, tmp_path)
    check_picture(png, svg)
    drawn = svg.read_text()
    expected = {
        "mixed": ["clean: 300 pairs, 100% above 0", "flipped: 100 pairs, 0% above 0"],
        "clean": ["clean: 400 pairs, 75% above 0"],
        "equal": ["clean: 300 pairs, 0% above 0", "flipped: 100 pairs, 0% above 0"],
        "infinite": ["flipped: 99 pairs, 0% above 0", "recorded label (1 not finite)"],
    }[case]
    assert all(text in drawn for text in expected)
    assert ("flipped:" in drawn) == (case != "clean")


def check_picture(png: Path, svg: Path) -> None:
    from matplotlib.image import imread

    pixels = imread(png)
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 50
    assert svg.read_text().startswith("<?xml")


def test_samples_are_kept_as_data_and_as_a_page_that_runs_nothing(tmp_path: Path) -> None:
    attack = "<script>alert('x')</script> & \"{braces}\""
    rows = [
        {"prompt": attack, "sft": "poor", "policy": "fine\nday", "gold_sft": -0.5, "gold_policy": 1.25},
        {"prompt": "so", "sft": "a", "policy": "a", "gold_sft": 0.5, "gold_policy": 0.5},
        {"prompt": "naïve", "sft": "b", "policy": "c", "gold_sft": None, "gold_policy": None},
    ]
    lines, page = samples_table(rows, tmp_path)
    assert [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()] == rows
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &quot;{braces}&quot;" in html
    assert "naïve" in html
    assert "+1.750" in html
    assert "the policy wins 75%" in html
