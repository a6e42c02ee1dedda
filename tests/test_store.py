"""The run store: identities, locks, and what many runs share."""

import os
import socket
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from prefopt import store
from prefopt.errors import PrefoptError
from prefopt.files import replace_file, replace_text

NODES = st.dictionaries(st.sampled_from(["name", "rate", "path"]), st.none() | st.integers() | st.floats() | st.text())
CONFIGS = st.dictionaries(st.sampled_from(["method", "noise", "seed", "tracking"]), NODES)


@settings(max_examples=50, deadline=None)
@given(config=CONFIGS)
def test_a_fingerprint_does_not_depend_on_order_or_on_what_cannot_change_the_outcome(config: dict) -> None:
    identity = store.fingerprint(config, {})
    reordered = dict(reversed(config.items()))
    assert store.fingerprint(reordered, {}) == identity
    assert store.fingerprint({**config, "tracking": "elsewhere"}, {}) == identity
    assert store.fingerprint({**config, "seed": "another"}, {}) != identity


def test_contents_stand_in_for_paths() -> None:
    one, other = {"dataset": {"path": "/here"}}, {"dataset": {"path": "/there"}}
    assert store.fingerprint(one, {"dataset": "abc"}) == store.fingerprint(other, {"dataset": "abc"})
    assert store.fingerprint(one, {"dataset": "abc"}) != store.fingerprint(one, {"dataset": "abd"})


def test_the_home_is_where_it_is_said_to_be(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.run("dpo", "bandit", "1a2b").folder == home / "dpo-bandit-1a2b"
    monkeypatch.delenv("PREFOPT_HOME")
    assert store.home() == store.CHECKOUT / "runs"


def test_a_status_says_who_and_forgets_what_was(home: Path) -> None:
    run = store.run("dpo", "bandit", "1a2b")
    assert run.status() == {"state": "new"}
    run.mark("failed", error="why")
    assert run.status()["error"] == "why" and not run.done
    run.mark("done")
    assert "error" not in run.status()
    assert not run.done, "its results are not there"
    run.results.write_text("{}")
    assert run.done


def test_a_failure_is_old_or_new(home: Path) -> None:
    run = store.run("dpo", "bandit", "1a2b")
    assert not run.failed_since(0)
    run.mark("failed")
    told = run.status()["time"]
    assert run.failed_since(told) and not run.failed_since(told + 1)
    run.mark("running")
    assert not run.failed_since(0)


def test_a_run_that_this_process_holds_is_held(home: Path) -> None:
    run = store.run("dpo", "bandit", "1a2b")
    with run.claimed():
        run.mark("running")
        with (
            pytest.raises(PrefoptError, match=f"in use by process {os.getpid()} on {socket.gethostname()}"),
            run.claimed(),
        ):
            pass
    with run.claimed():
        pass


def test_a_run_is_free_again_after_an_error(home: Path) -> None:
    run = store.run("dpo", "bandit", "1a2b")
    with pytest.raises(ZeroDivisionError), run.claimed():
        raise ZeroDivisionError
    with run.claimed():
        pass


def test_what_is_shared_is_made_once_and_whole(home: Path) -> None:
    made: list[Path] = []

    def dies(folder: Path) -> None:
        (folder / "half.npy").touch()
        raise KeyboardInterrupt

    def works(folder: Path) -> None:
        made.append(folder)
        (folder / "whole.npy").touch()

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            store.cached("data", {"key": 1}, dies)
    folder = store.cached("data", {"key": 1}, works)
    assert folder == store.cached("data", {"key": 1}, works) != store.cached("data", {"key": 2}, works)
    assert len(made) == 2
    assert sorted(file.name for file in folder.iterdir()) == ["key.json", "whole.npy"]
    assert not list(home.rglob("*.part"))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    replace_text(path, "old")

    def fails(file: object) -> None:
        file.write(b"ne")  # type: ignore[attr-defined]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        replace_file(path, fails)
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


def test_a_run_that_waits_says_so_and_for_what(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needing, needed = store.run("dpo", "reviews", "1a2b"), store.run("sft", "reviews", "3c4d")
    needed.mark("running")
    somebody = FileLock(needed.lock)
    somebody.acquire()
    seen = []

    def look() -> None:
        seen.append(needing.status())
        somebody.release()

    monkeypatch.setattr(store.stop, "check", look)
    with needing.claimed(), needed.claimed(lambda _: None):
        assert needing.status()["state"] == "running"
    assert seen[0]["state"] == "waiting" and seen[0]["on"] == needed.name
