"""One run in MLflow: all of it is there, once, whatever is interrupted, sent twice or away."""

import logging
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefopt.errors import PrefoptError
from prefopt.tracking import ui
from prefopt.tracking.channel import Order, channel
from prefopt.tracking.database import store_uri
from prefopt.tracking.events import EVENTS, EventFile
from prefopt.tracking.mlflow import MlflowTracker
from prefopt.tracking.record import RECEIPT, Receipt, Record
from prefopt.tracking.sender import Run, delivered, serve

CHECKOUT = Path(__file__).resolve().parents[2]
Fill = Callable[[Path, range], None]
Raced = tuple[Path, list[tuple[int, str]]]


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory, record_run: Callable[..., Path]) -> Raced:
    """A home whose store four processes made together, each for a run of its own, and how they ended."""
    home = tmp_path_factory.mktemp("home")
    for k in range(4):
        record_run(home / f"raced{k}", "raced")
    command = [sys.executable, "-m", "prefopt.track", "sync", "--uri", store_uri(home)]
    racing = [
        subprocess.Popen([*command, home / f"raced{k}"], cwd=CHECKOUT, stderr=subprocess.PIPE, text=True)
        for k in range(4)
    ]
    words = [process.communicate()[1] for process in racing]
    return home, [(process.returncode, word) for process, word in zip(racing, words, strict=True)]


@pytest.fixture
def lab(raced: Raced) -> Path:
    """A home with a store."""
    return raced[0]


@pytest.fixture
def run_dir(lab: Path, request: pytest.FixtureRequest) -> Path:
    folder = lab / request.node.name
    folder.mkdir()
    return folder


def started(lab: Path, run_dir: Path, uri: str | None = None, **params: object) -> MlflowTracker:
    tracker = MlflowTracker(home=lab, uri=uri, every_s=0.05, patience_s=300)
    tracker.start(run_dir, run_dir.name, {"method": "rdpo", **params}, {"seed": "0"})
    return tracker


def test_processes_that_make_the_store_together_all_succeed(raced: Raced, view: Any) -> None:
    home, ends = raced
    assert [code for code, _ in ends] == [0, 0, 0, 0], ends
    for k in range(4):
        view(store_uri(home)).check(home / f"raced{k}", range(20), "raced")


def test_a_run_is_in_mlflow_whole(lab: Path, run_dir: Path, fill: Fill, view: Any) -> None:
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

    run = view(tracker.uri).run(run_dir)
    view(tracker.uri).check(run_dir, range(300))
    assert run.info.status == "FINISHED"
    assert run.data.params == {"method": "rdpo", "noise.rate": "0.2", "text": "x" * 6000} | {
        f"many.p{k}": str(k) for k in range(150)
    }
    assert run.data.tags["seed"] == "0"
    assert np.isnan(run.data.metrics["bad"])
    assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(lab / "mlartifacts")
    listed = [item.path for item in view(tracker.uri).client.list_artifacts(run.info.run_id)]
    assert listed == ["config.yaml", "figures"]
    assert [item.path for item in view(tracker.uri).client.list_artifacts(run.info.run_id, "figures")] == [
        "figures/curve.svg"
    ]
    receipt = Receipt.load(run_dir)
    assert receipt is not None
    assert receipt.run_id == run.info.run_id
    assert delivered(run_dir, tracker.uri)


def test_a_run_that_resumes_goes_on_in_the_same_mlflow_run(
    lab: Path, run_dir: Path, fill: Fill, until: Any, view: Any
) -> None:
    tracker = started(lab, run_dir, rounds=1)
    fill(run_dir / EVENTS, range(300))
    tracker.finish("KILLED")
    until(lambda: view(tracker.uri).run(run_dir).info.status == "KILLED")

    tracker = started(lab, run_dir, rounds=2, added=1)
    EventFile(run_dir / EVENTS).rewind(119)
    fill(run_dir / EVENTS, range(120, 400))
    tracker.finish("FINISHED")
    view(tracker.uri).check(run_dir, range(400))
    run = view(tracker.uri).run(run_dir)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"method": "rdpo", "rounds": "1", "added": "1"}
    assert run.data.tags["prefopt.changed"] == "rounds"


def test_a_run_that_goes_on_is_running_again(lab: Path, run_dir: Path, until: Any, view: Any) -> None:
    started(lab, run_dir).finish("KILLED")
    tracker = started(lab, run_dir)
    until(lambda: view(tracker.uri).run(run_dir).info.status == "RUNNING")
    tracker.finish("FAILED")
    assert view(tracker.uri).run(run_dir).info.status == "FAILED"


def test_a_file_rewound_while_it_is_sent_loses_and_doubles_nothing(
    lab: Path, run_dir: Path, fill: Fill, view: Any
) -> None:
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
    assert view(store_uri(lab)).steps(run_dir, "m0") == list(range(200))


def test_what_was_sent_without_a_receipt_is_not_sent_again(lab: Path, run_dir: Path, fill: Fill, view: Any) -> None:
    Record("twice", "prefopt", run_dir.name, {}, {}, 1.7e9, 1.7e9, "FINISHED").save(run_dir)
    fill(run_dir / EVENTS, range(40))
    assert Run(run_dir, lab, store_uri(lab)).send() is None
    (run_dir / RECEIPT).unlink()
    fill(run_dir / EVENTS, range(40, 60))
    assert Run(run_dir, lab, store_uri(lab)).send() is None
    view(store_uri(lab)).check(run_dir, range(60))


def test_two_senders_of_one_run_do_not_double_it(lab: Path, run_dir: Path, fill: Fill, view: Any) -> None:
    record = Record("both", "prefopt", run_dir.name, {}, {}, 1.7e9)
    record.save(run_dir)
    fill(run_dir / EVENTS, range(10))
    first, second = (Run(run_dir, lab, store_uri(lab)) for _ in range(2))
    assert first.send() is None
    assert second.send() == "another process is sending it"
    replace(record, status="FAILED").save(run_dir)
    assert first.send() is None
    assert second.send() is None
    view(store_uri(lab)).check(run_dir, range(10))
    assert view(store_uri(lab)).run(run_dir).info.status == "FAILED"


def test_a_run_whose_process_is_gone_is_sent_to_the_end_and_called_killed(
    lab: Path, run_dir: Path, fill: Fill, view: Any
) -> None:
    Record("gone", "prefopt", run_dir.name, {}, {}, 1.7e9).save(run_dir)
    fill(run_dir / EVENTS, range(30))
    ours, theirs = Pipe()
    ours.send(Order((run_dir,), lab, store_uri(lab), 20.0, owned=True))
    ours.close()
    serve(theirs)
    view(store_uri(lab)).check(run_dir, range(30))
    assert view(store_uri(lab)).run(run_dir).info.status == "KILLED"
    assert delivered(run_dir, store_uri(lab))


def test_a_sender_that_dies_is_replaced(lab: Path, run_dir: Path, fill: Fill, view: Any) -> None:
    tracker = started(lab, run_dir)
    process = channel(lab).process
    process.kill()
    process.wait()
    fill(run_dir / EVENTS, range(30))
    tracker.finish("FINISHED")
    view(tracker.uri).check(run_dir, range(30))


def test_an_unreachable_server_costs_a_warning_and_gets_all_of_it_later(
    lab: Path, run_dir: Path, caplog: pytest.LogCaptureFixture, fill: Fill, view: Any
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
    assert command == ["-m", "prefopt.track", "sync", "--uri", tracker.uri, str(run_dir)]
    assert not delivered(run_dir, tracker.uri)
    sender = channel(lab).process  # it would go on trying, and be first
    sender.kill()
    sender.wait()

    with interface(lab, port):
        done = subprocess.run([sys.executable, *command], cwd=CHECKOUT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        again = subprocess.run([sys.executable, *command], cwd=CHECKOUT, capture_output=True, text=True)
        assert again.stdout.endswith("nothing to send\n")
        view(tracker.uri).check(run_dir, range(250))
        with urllib.request.urlopen(f"{tracker.uri}/") as page:
            assert b"<title>MLflow" in page.read()
        with pytest.raises(PrefoptError, match=rf"(?s)port {port} of 127.0.0.1 cannot be opened.*--port {port + 1}"):
            ui.check_free(port)


@contextmanager
def interface(home: Path, port: int) -> Iterator[None]:
    """`python -m prefopt.track ui`, from when it answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "prefopt.track", "ui", "--port", str(port)],
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
