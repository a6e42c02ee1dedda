"""What goes wrong while a run is under way: it stops with a clear error, loses nothing, and goes on when sent again."""

import json
import os
import random
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from prefopt import store
from prefopt.config import composed
from prefopt.errors import Diverged, Interrupted, PrefoptError
from prefopt.evaluation import figures
from prefopt.evaluation.suite import Examination
from prefopt.loop.checkpoints import WholeFiles, newest_sound, sound, write
from prefopt.loop.record import Record
from prefopt.methods.base import Method
from prefopt.methods.online.grpo import GRPO
from prefopt.methods.pairwise.base import Pairwise
from prefopt.models.causal import frozen_copy
from prefopt.run import run
from prefopt.tracking.events import EVENTS, EventFile, read

DPO = [
    *("dataset=bandit", "model=log_linear", "method=dpo", "dataset.pairs=64", "dataset.test_pairs=16"),
    *("rounds=3", "batch_size=16", "tracking=none", "trainer=cpu", "trainer.checkpoint_every_s=0"),
]
"""12 steps in 3 rounds, a checkpoint after each."""
GRPO_RUN = [*DPO[:2], "method=grpo", "method.prompts=16", "rounds=3", "batch_size=4", *DPO[7:]]
"""12 steps in 3 rounds, each on samples of its own."""


def sent(overrides: list[str] = DPO) -> store.Run:
    return run(composed(overrides))


def weights(stored: store.Run) -> dict[str, torch.Tensor]:
    return load_file(stored.policy / "exact.safetensors")


def stored_run() -> store.Run:
    """The one run of the home."""
    [folder] = (path for path in store.home().iterdir() if (path / "status.json").exists())
    return store.Run(folder)


@pytest.fixture(autouse=True, scope="module")
def undrawn() -> Iterator[None]:
    """No figures: other tests draw, and it takes longer than these runs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("learning_curves", "margin_histogram"):
            patch.setattr(figures, name, lambda *_: [])
        yield


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> store.Run:
    """The run that nothing happens to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFOPT_HOME", str(tmp_path_factory.mktemp("untroubled")))
        return sent()


def assert_goes_on(expected: store.Run) -> None:
    """Sent again, the run ends as if nothing had happened."""
    stored = sent()
    assert stored.done and "error" not in stored.status()
    assert torch.equal(weights(stored)["f.theta"], weights(expected)["f.theta"])
    assert events(stored) == events(expected)


def events(stored: store.Run) -> list[tuple[int, dict[str, float]]]:
    return [(event.step, event.metrics) for event in read(stored.folder / EVENTS)]


@contextmanager
def before(owner: Any, name: str, act: Callable[..., None]) -> Iterator[None]:
    """Call `act` with the same arguments before each call of `owner.name`."""
    function = getattr(owner, name)

    def both(*args: Any, **kwargs: Any) -> Any:
        act(*args, **kwargs)
        return function(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, both)
        yield


def signalled(number: int, step: int, times: int = 1) -> Any:
    """A signal at the end of the optimiser step `step`."""

    def act(record: Record, trainer: Any, *_: Any) -> None:
        if trainer.global_step == step:
            for _ in range(times):
                os.kill(os.getpid(), number)

    return before(Record, "on_train_batch_end", act)


@pytest.mark.parametrize("step", [1, 4, 12], ids=["mid-round", "end of a round", "last step"])
@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_run_told_to_stop_saves_says_how_to_go_on_and_does(
    number: int, name: str, step: int, home: Path, expected: store.Run
) -> None:
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with signalled(number, step), pytest.raises(Interrupted) as stopped:
        sent()
    assert stopped.value.exit_code == 130
    checkpoint = stored_run().checkpoints / "last.ckpt"
    assert f"stopped by {name} at step {step}; the checkpoint is {checkpoint}" in str(stopped.value)
    assert "the same command goes on" in str(stopped.value)
    assert stored_run().status()["state"] == "interrupted"
    assert torch.load(checkpoint, weights_only=True)["global_step"] == step
    assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    assert_goes_on(expected)


def test_a_second_ctrl_c_stops_at_once(home: Path, expected: store.Run) -> None:
    with signalled(signal.SIGINT, 6, times=2), pytest.raises(Interrupted, match="at once"):
        sent()
    assert torch.load(stored_run().checkpoints / "last.ckpt", weights_only=True)["global_step"] == 5
    assert_goes_on(expected)


def test_ctrl_c_while_measuring_says_how_to_go_on(home: Path, expected: store.Run) -> None:
    with (
        before(Examination, "after", lambda *_: os.kill(os.getpid(), signal.SIGINT)),
        pytest.raises(Interrupted, match="the same command goes on"),
    ):
        sent()
    assert stored_run().status()["state"] == "interrupted"
    assert_goes_on(expected)


def test_ctrl_c_while_the_first_round_is_collected_stops_after_its_first_step(home: Path) -> None:
    with (
        before(GRPO, "collect", lambda *_: os.kill(os.getpid(), signal.SIGINT)),
        pytest.raises(Interrupted, match="at step 1;"),
    ):
        sent(GRPO_RUN)


def test_every_round_is_collected_once_and_finished_once_however_often_a_run_is_stopped(home: Path) -> None:
    collected: list[int] = []
    finished: list[int] = []
    stop = before(Record, "on_train_batch_end", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    stops = 0
    with (
        before(GRPO, "collect", lambda method, data, round: collected.append(round)),
        before(Method, "finish", lambda method, round: finished.append(round)),
        stop,
    ):
        while stops < 20:
            try:
                sent(GRPO_RUN)
                break
            except Interrupted:
                stops += 1
    assert stops == 12
    assert collected == finished == [0, 1, 2]


def poisoned(call: int, poison: Callable[[Pairwise, torch.Tensor], torch.Tensor]) -> Any:
    """The loss of the call number `call` with `poison` in it, and the batch that it was."""
    batches: list[Any] = []
    loss = Pairwise.loss

    def changed(method: Pairwise, batch: Any) -> Any:
        batches.append(batch)
        losses, metrics = loss(method, batch)
        return (poison(method, losses) if len(batches) == call else losses), metrics

    return changed, batches


@pytest.mark.parametrize(
    ("poison", "what"),
    [
        (lambda method, losses: losses * torch.nan, "the loss is nan"),
        (lambda method, losses: losses + (method.policy.f.theta.sum() * 0).sqrt(), "the gradient's norm is nan"),
    ],
    ids=["loss", "gradient"],
)
@pytest.mark.parametrize("step", [1, 6, 12])
def test_a_number_that_is_not_finite_stops_the_run_keeps_what_was_good_and_the_batch_that_did_it(
    poison: Any, what: str, step: int, home: Path, expected: store.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, batches = poisoned(step, poison)
    with monkeypatch.context() as patch:
        patch.setattr(Pairwise, "loss", changed)
        with pytest.raises(Diverged) as diverged:
            sent()
    stored = stored_run()
    bad = stored.folder / "bad_batch.safetensors"
    assert diverged.value.exit_code == 3
    assert f"{what} at step {step}; the batch that did it is {bad}" in str(diverged.value)
    assert torch.equal(load_file(bad)["index"], batches[-1].index)
    assert stored.status()["state"] == "failed"
    checkpoint = newest_sound(stored.checkpoints)
    assert (checkpoint is None) == (step == 1)
    if checkpoint is not None:
        state = torch.load(checkpoint, weights_only=True)
        assert state["global_step"] == step - 1
        assert all(tensor.isfinite().all() for tensor in state["state_dict"].values())
    assert_goes_on(expected)


def test_the_bad_batch_is_found_among_the_steps_since_the_last_reading(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, batches = poisoned(2, lambda method, losses: losses * torch.inf)
    monkeypatch.setattr(Pairwise, "loss", changed)
    with pytest.raises(Diverged, match="the loss is inf at step 2;"):
        sent([*DPO, "trainer.checkpoint_every_s=1000"])
    assert len(batches) == 4, "the loss was read at the end of the round"
    assert torch.equal(load_file(stored_run().folder / "bad_batch.safetensors")["index"], batches[1].index)


def interrupted(step: int) -> store.Run:
    """The run, stopped after this step."""
    with signalled(signal.SIGTERM, step), pytest.raises(Interrupted):
        sent()
    return stored_run()


def test_a_full_disk_at_a_checkpoint_keeps_the_one_before(home: Path, expected: store.Run) -> None:
    stored = interrupted(3)
    last = stored.checkpoints / "last.ckpt"
    content = last.read_bytes()
    (stored.checkpoints / "new.ckpt.part").symlink_to("/dev/full")
    with pytest.raises(PrefoptError) as full:
        sent()
    assert f"the checkpoint {last} could not be written: No space left on device" in full.value.what
    assert "free some space; the same command then goes on" in full.value.mend
    assert last.read_bytes() == content
    assert stored.status()["state"] == "failed" and "No space left" in stored.status()["error"]
    assert_goes_on(expected)


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes fails, after what fits was written, as on a disk that fills up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_fits_only_in_part_is_as_if_it_had_never_been(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    WholeFiles().save_checkpoint({"weights": torch.zeros(10)}, path)
    with files_end_at(100_000), pytest.raises(PrefoptError, match=r"last\.ckpt could not be written"):
        WholeFiles().save_checkpoint({"weights": torch.ones(1_000_000)}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert not WholeFiles().load_checkpoint(path)["weights"].any()


def test_an_event_file_that_cannot_grow_is_a_clear_error(tmp_path: Path) -> None:
    file = EventFile(tmp_path / EVENTS)

    def fill() -> None:
        for step in range(1000):
            file.write(step, {"loss": 1.0})

    with files_end_at(10_000), pytest.raises(PrefoptError, match=r"metrics\.jsonl"):
        fill()
    file.close()
    steps = [event.step for event in read(tmp_path / EVENTS)]
    assert steps == list(range(len(steps))) and len(steps) > 100


def test_no_truncated_and_no_flipped_checkpoint_is_taken_for_a_sound_one(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    WholeFiles().save_checkpoint({"weights": torch.arange(50.0), "loops": {"step": 3}}, path)
    whole = path.read_bytes()
    assert sound(path)
    assert newest_sound(tmp_path) == path
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert not sound(path), f"truncated to {length} bytes"
    bits = random.Random(0)
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << bits.randrange(8)
        path.write_bytes(flipped)
        assert not sound(path), f"byte {place} flipped"


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_said_and_the_one_before_is_taken(
    home: Path, expected: store.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = interrupted(6).checkpoints
    damage(checkpoints / "last.ckpt")
    capsys.readouterr()
    with signalled(signal.SIGTERM, 6), pytest.raises(Interrupted):
        sent()
    said = capsys.readouterr().err
    assert f"{checkpoints / 'last.ckpt'} is damaged; trying the one before" in said
    assert f"going on from {checkpoints / 'previous.ckpt'}" in said
    assert all(sound(file) for file in checkpoints.iterdir())
    assert_goes_on(expected)


def test_where_every_checkpoint_is_damaged_the_run_says_so_and_touches_nothing(home: Path) -> None:
    stored = interrupted(6)
    files = sorted(stored.checkpoints.iterdir())
    for file in files:
        damage(file)
    with pytest.raises(PrefoptError) as damaged:
        sent()
    assert f"every checkpoint in {stored.checkpoints} is damaged" in damaged.value.what
    assert f"deleting {stored.folder}" in damaged.value.mend
    assert sorted(stored.checkpoints.iterdir()) == files


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


def test_a_checkpoint_with_code_in_it_is_refused(home: Path, tmp_path: Path) -> None:
    stored, canary = interrupted(2), tmp_path / "canary"
    with (stored.checkpoints / "last.ckpt").open("wb") as file:
        write({"state_dict": Evil(canary)}, file)
    with pytest.raises(PrefoptError, match=r"last\.ckpt holds more than tensors"):
        sent()
    assert not canary.exists()


@pytest.mark.parametrize("reference", ["cached", "copy"])
def test_a_reference_that_is_not_the_policys_start_stops_the_run(
    reference: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(policy: Any) -> Any:
        copy = frozen_copy(policy)
        copy.f.theta += 0.1
        return copy

    monkeypatch.setattr("prefopt.cast.frozen_copy", changed)
    with pytest.raises(PrefoptError, match="before the first step policy and reference differ by up to"):
        sent([*DPO, f"method.needs.reference={reference}"])
    assert not stored_run().checkpoints.exists()


def test_dpo_starts_at_log_2(home: Path) -> None:
    stored = sent([*DPO, "trainer.log_every=1"])
    first = next(read(stored.folder / EVENTS))
    assert first.step == 1 and first.metrics["loss"] == pytest.approx(np.log(2), abs=1e-6)


def test_a_run_in_use_is_an_error_that_names_who_uses_it(home: Path, processes: Any) -> None:
    stored = interrupted(2)
    with stored.claimed():
        stored.mark("running")
        ended = processes.run(DPO, home)
    assert ended.code == 2
    assert f"{stored.folder} is in use by process {os.getpid()} on {socket.gethostname()}" in ended.said
    assert "Traceback" not in ended.said


def test_two_runs_that_need_one_sft_wait_for_it_and_only_one_trains_it(home: Path, processes: Any) -> None:
    text = [
        *("dataset=reviews", "model=tiny", "model.hidden_size=16", "model.layers=1", "model.heads=2", "rounds=1"),
        *("dataset.pairs=16", "dataset.demonstrations=32", "dataset.test_pairs=8", "evaluation.prompts=2"),
        *("evaluation.times=1", "model.vocabulary=300", "tracking=none", "trainer=cpu"),
    ]
    needed = composed([*text, "method=dpo"]), composed([*text, "method=rdpo"])
    sft = store.run("sft", "reviews", identity_of_sft(needed[0]))
    assert sft == store.run("sft", "reviews", identity_of_sft(needed[1]))
    with sft.claimed():
        sft.mark("running")
        pipes = [home / "dpo.pipe", home / "rdpo.pipe"]
        for pipe in pipes:
            os.mkfifo(pipe)
        pids = [processes.fork([*text, f"method={p.stem}"], home, log=p) for p in pipes]
        logs = [pipe.open() for pipe in pipes]
        waits = f"waiting for {sft.name}, which process {os.getpid()} on {socket.gethostname()} is working on"
        for log in logs:
            assert any(waits in line for line in log)
    said = [log.read() for log in logs]
    assert [processes.wait(pid) for pid in pids] == [0, 0], said
    assert sorted(text.count(f"{sft.name} is done already") for text in said) == [0, 1]


def identity_of_sft(config: Any) -> str:
    from prefopt.config import needed
    from prefopt.run import Parts

    return Parts(needed(config, config.method.needs.policy)).fingerprint()


def test_a_failed_run_keeps_its_error_until_it_is_sent_again(
    home: Path, expected: store.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Examination, "after", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sent()
    stored = stored_run()
    assert stored.status()["error"] == "division by zero"
    assert "ZeroDivisionError" in (stored.folder / "error.txt").read_text()
    assert_goes_on(expected)
    assert json.loads(stored.results.read_text())["run"] == stored.name
