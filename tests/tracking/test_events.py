"""The event file: nothing measured is lost or doubled, wherever it is cut or rewound."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefopt.errors import PrefoptError
from prefopt.tracking.events import EVENTS, EventFile, read

Fill = Callable[[Path, range], None]


def steps_in(path: Path) -> list[int]:
    return [event.step for event in read(path)]


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
    tmp_path_factory: pytest.TempPathFactory, fill: Fill, checkpoints: list[int]
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


def test_a_rewind_to_before_the_first_step_empties_the_file(tmp_path: Path, fill: Fill) -> None:
    fill(tmp_path / EVENTS, range(5))
    EventFile(tmp_path / EVENTS).rewind(-1)
    assert (tmp_path / EVENTS).read_bytes() == b""


def test_a_file_cut_at_any_byte_keeps_its_whole_lines_and_goes_on(tmp_path: Path, fill: Fill) -> None:
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
