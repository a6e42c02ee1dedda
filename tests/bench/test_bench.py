"""What the benchmark's figures rest on: its pairs, its turns, its intervals and its gate. None of it measures time."""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import bench
import identity
import interval
import limit
import numpy as np
import ours
import pairs
import pytest
import report
import sizes
import theirs
import throughput
from turns import in_turn, taken

from prefopt import stop

TINY = sizes.Size(16, 1, 2, 64, 2, 32, 2)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a model that is all overhead."""
    monkeypatch.setitem(sizes.SIZES, "tiny", TINY)
    return "tiny"


@pytest.mark.parametrize("profile", pairs.PROFILES.values())
def test_pairs_have_the_medians_of_their_profile_and_fit_the_longest_row(profile: pairs.Profile) -> None:
    drawn = pairs.drawn(profile, 2000, 100)
    prompts, chosen = ([len(ids) for ids in part] for part in list(zip(*drawn, strict=True))[:2])
    assert np.median(prompts) == pytest.approx(profile.prompt, rel=0.05)
    assert np.median(chosen) == pytest.approx(profile.response, rel=0.05)
    assert np.std(np.log(prompts)) == pytest.approx(pairs.SPREAD, rel=0.1)
    assert max(len(p) + max(len(c), len(r)) for p, c, r in drawn) <= profile.longest


def test_both_sides_get_the_same_tokens(tiny: str, tmp_path: Path) -> None:
    drawn = pairs.drawn(identity.SHORT, 4, TINY.vocabulary)
    start = theirs.Start(sizes.made(TINY, 64), drawn, TINY.vocabulary, tmp_path, batch=2, device="cpu")
    rows = start.trainer({**theirs.BEST, "bf16": False}).train_dataset
    table = pairs.table(drawn)
    assert [list(ids) for ids in table.prompt] == rows["prompt_ids"][:]
    responses = [ids for row in rows for ids in (row["chosen_ids"], row["rejected_ids"])]
    assert [list(ids) for ids in table.response] == responses


def test_prefopt_and_trl_train_alike_and_one_that_does_not_is_void(
    tiny: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stop.heeded():
        sound = identity.gate(tiny, tmp_path / "sound")
        monkeypatch.setitem(theirs.SHARED, "learning_rate", 3 * ours.LEARNING_RATE)
        wrong = identity.gate(tiny, tmp_path / "wrong")
    assert report.void({"checks": sound}) == []
    assert report.void({"checks": wrong}) == ["losses, 32-true"]
    assert "do not compute the same" in report.troubles({"throughput tiny": {"checks": wrong}})[0]


def test_log_probs_that_differ_are_found() -> None:
    table = pairs.table(pairs.drawn(identity.SHORT, 3, 64))
    cached = replace(table, aligned={"reference": np.full(len(table.response.values), -2.0)})
    whole = -2.0 * table.response.lengths.reshape(3, 2)
    assert identity.logps(cached, whole, 1e-3)["agrees"]
    assert not identity.logps(cached, whole * 1.002, 1e-3)["agrees"]


def test_a_loss_that_does_not_begin_at_log_2_is_found() -> None:
    fine = [float(np.log(2)), 0.6]
    assert identity.losses(fine, fine, 1e-3)["agrees"]
    assert not identity.losses([0.7, 0.6], [0.7, 0.6], 1e-3)["agrees"]
    assert not identity.losses(fine, [fine[0], 0.603], 1e-3)["agrees"]


def test_work_goes_on_only_while_it_is_asked_for_and_is_left_where_it_stands() -> None:
    log: list[Any] = []

    def work(pause: Callable[[Any], None]) -> None:
        try:
            for k in range(5):
                log.append(k)
                pause(k)
        finally:
            log.append("left")

    arm = in_turn(work)
    assert log == [] and next(arm) == 0 and next(arm) == 1 and log == [0, 1]
    arm.close()
    assert log == [0, 1, "left"]
    with pytest.raises(ZeroDivisionError):
        next(in_turn(lambda pause: pause(1 / 0)))


def test_arms_take_turns_in_an_order_that_is_reversed_each_time() -> None:
    order: list[str] = []

    def arm(name: str) -> Any:
        while True:
            order.append(name)
            yield 0.5

    found = taken({name: arm(name) for name in "abc"}, 2)
    assert "".join(order) == "abccba"
    assert found.losses["a"] == [0.5, 0.5] and len(found["a"]) == 2


def test_the_interval_of_a_ratio_holds_it_nine_times_in_ten() -> None:
    draws, held = np.random.default_rng(1), 0
    for _ in range(200):
        theirs_, ours_ = 3 * draws.lognormal(0, 0.1, 20), draws.lognormal(0, 0.1, 20)
        found = interval.ratio(theirs_, ours_)
        held += found.low <= 3 <= found.high
    assert 0.8 <= held / 200 <= 0.96


def test_blocks_have_long_and_short_steps_alike_and_lose_none() -> None:
    weights = np.random.default_rng(0).permutation(np.arange(12.0))
    blocks = interval.dealt(weights, weights, 6)
    assert blocks == [11.0] * 6


def test_random_batches_are_of_the_same_counted_pairs() -> None:
    plan = list(np.random.default_rng(0).permutation(20).reshape(5, 4))
    shuffled = throughput.reordered(plan, 2)
    assert [len(rows) for rows in shuffled] == [4] * 5
    assert set(np.concatenate(shuffled[2:])) == set(np.concatenate(plan[2:]))
    assert any(set(a) != set(b) for a, b in zip(plan, shuffled, strict=True))


def test_flops_are_those_that_torch_counts_but_for_the_mask() -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = sizes.made(TINY, 64)
    ids = torch.randint(2, 64, (1, 20))
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(input_ids=ids).logits.sum().backward()
    one = pairs.Pair(np.arange(0), np.arange(20), np.arange(0))  # a row that is all response
    attention = 12 * TINY.layers * TINY.hidden * 20 * 20 / 2
    assert limit.flops(TINY, [one]) + attention == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_a_target_is_reached_by_the_worse_end_of_the_interval_alone() -> None:
    above, astride = interval.Ratio(5.5, 5.1, 6.0), interval.Ratio(5.5, 4.9, 6.0)
    assert report.judged("", "", above, 5.0).reached == "yes"
    assert report.judged("", "", astride, 5.0).reached == "no"
    assert report.judged("", "", above, 5.4, at_most=True).reached == "no"
    assert report.judged("", "", above, 6.0, at_most=True).reached == "yes"


def test_a_part_that_fails_is_said_and_makes_the_command_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFOPT_HOME", "")
    found = {"memory": bench.carried_out(bench.Part("memory", {"size": "none", "batch": 1, "repeats": 1}))}
    assert "memory failed" in report.troubles(found)[0] and "CalledProcessError" in report.troubles(found)[0]
    assert {row.measured for row in report.rows(found)} == {"not measured"}


def test_what_was_not_measured_or_is_void_has_no_figure() -> None:
    assert (
        {row.measured for row in report.rows({})} == {row.measured for row in report.gpu_rows({})} == {"not measured"}
    )
    void = {"throughput xs": {"checks": {"losses": {"agrees": False}}, "profiles": {}}}
    assert {row.measured for row in report.rows(void) if row.setting.startswith("1.3M, ")} == {"void"}


@pytest.mark.parametrize("part", [*bench.PARTS.values(), *bench.QUICK.values()], ids=lambda part: part.module)
def test_every_part_can_be_measured_with_what_it_is_given(part: bench.Part) -> None:
    signature(import_module(part.module).measured).bind(**part.arguments)


def test_stacks_orchestration_and_start_up_have_their_rows() -> None:
    assert {"stack", "orchestration", "startup", "cells"} <= bench.PARTS.keys()
    figures = {name: [64.0, 1.0, 64.0, 60.0, 68.0] for name in ("a step", "training", "the whole")}
    found = {
        "stack": {"64, one method": figures, "64, four methods": figures},
        "orchestration": {"ms a step": [0.5, 0.6]},
        "startup": {"--help": [0.3, 0.2], "list": [0.3], "configuration error": [0.5]},
        "cells": {"exact world": [0.06], "text": [0.2]},
    }
    reached = [row.reached for row in report.rows(found) if row.measured != "not measured" and row.target]
    assert reached == ["yes", "yes", "yes", "yes", "yes", "no", "yes", "no"]
