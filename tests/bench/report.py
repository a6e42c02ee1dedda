"""The table of targets, measured figures and limits."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from interval import Ratio, mean, ratio

FIELDS = ("what", "setting", "measured", "90 % interval", "target", "reached", "limit")
TARGETS = {"T1": {"prompt-heavy": 5.0, "response-heavy": 3.5}, "T2": {"prompt-heavy": 4.0, "response-heavy": 3.0}}
NAMES = {"T1": "random order", "T2": "sorted batches"}
SIZES = {"xs": "1.3M", "s": "9M", "m": "34M"}


class Row(NamedTuple):
    what: str
    setting: str
    measured: str = "not measured"
    interval: str = ""
    target: str = ""
    reached: str = ""
    limit: str = ""


def judged(
    what: str,
    setting: str,
    found: Ratio,
    target: float | None,
    *,
    unit: str = "x",
    at_most: bool = False,
    limit: float | None = None,
) -> Row:
    """Reached where the worse end of the interval is; a figure without one stands for itself."""
    worse = found.high if at_most else found.low
    reached = "" if target is None else "yes" if (worse <= target if at_most else worse >= target) else "no"
    span = "" if found.low == found.high else f"{found.low:.2f} .. {found.high:.2f}"
    return Row(
        what,
        setting,
        f"{found.value:.2f}{unit}",
        span,
        "" if target is None else f"{target:g}{unit}",
        reached,
        "" if limit is None else f"{limit:.1f}{unit}",
    )


def single(value: float) -> Ratio:
    return Ratio(value, value, value)


def rows(found: dict[str, Any]) -> list[Row]:
    """Of all targets; `found` is what each part measured, of which some may be missing or have failed."""
    sound = {name: part for name, part in found.items() if "error" not in part}
    made = [row for size in SIZES for row in throughput(size, sound.get(f"throughput {size}"))]
    return [*made, *others(sound)]


def throughput(size: str, part: dict[str, Any] | None) -> Iterable[Row]:
    for arm, targets in TARGETS.items():
        for profile, target in targets.items():
            yield over_trl(SIZES[size], profile, part, arm, target)
    if part is None or void(part):
        return
    for profile, found in part["profiles"].items():
        key = "same precision and batches"
        yield judged(f"the same, {key}", f"{SIZES[size]}, {profile}, {found['theirs']}", Ratio(*found[key]), None)
        if "T0" in found["blocks"]:
            over = ratio(found["blocks"]["T0"], found["blocks"][found["ours"]])
            yield judged("the same over TRL as it comes", f"{SIZES[size]}, {profile}", over, None)


def over_trl(size: str, profile: str, part: dict[str, Any] | None, arm: str, target: float) -> Row:
    what, setting = f"throughput over TRL's best flags, {NAMES[arm]}", f"{size}, {profile}"
    if part is None:
        return Row(what, setting, target=f"{target:g}x")
    if void(part):
        return Row(what, setting, "void", target=f"{target:g}x", reached="no")
    found = part["profiles"][profile]
    return judged(what, setting, Ratio(*found[arm]), target, limit=found["limit"][arm])


def gpu_rows(found: dict[str, Any]) -> list[Row]:
    """Of the targets on a GPU; elsewhere than on one nothing of it is a figure of theirs."""
    import gpu

    sound = {name: part for name, part in found.items() if "error" not in part}
    made = [
        over_trl(
            SIZES.get(size, size),
            f"{profile}, batch {batch}",
            sound.get(f"throughput {size}"),
            "T1",
            4.0 if size == "m" else 2.0,
        )
        for size, cases in gpu.CASES.items()
        for profile, batch in cases
    ]
    return made + [peak_memory(size, sound.get(f"memory {size}"), 0.6) for size in ("0.5B", "1B")]


def peak_memory(size: str, part: dict[str, Any] | None, target: float) -> Row:
    what, setting = "peak memory, of TRL's", f"{size}, batch 8"
    if part is None:
        return Row(what, setting, target=f"{target:g}x")
    ours, theirs = (part["bytes"][part["arms"][side]] for side in ("ours", "T1"))
    return judged(what, setting, ratio(ours, theirs), target, at_most=True)


def void(part: dict[str, Any]) -> list[str]:
    """The checks that do not hold."""
    return [name for name, check in part["checks"].items() if not check["agrees"]]


def others(found: dict[str, Any]) -> Iterable[Row]:
    yield peak_memory("9M", found.get("memory"), 0.5)

    for cells in ("64, one method", "64, four methods"):
        for part in ("a step", "training", "the whole"):
            what, setting = "cells of an exact world over one after the other", f"{cells}: {part}"
            target = 40.0 if part == "a step" else None
            if stack := found.get("stack"):
                yield judged(what, setting, Ratio(*stack[cells][part][2:]), target)
            else:
                yield Row(what, setting, target="" if target is None else f"{target:g}x")

    what, setting, target = "orchestration a step over a raw loop", "empty model, 14 metrics, MLflow on", 0.7
    if part := found.get("orchestration"):
        yield judged(what, setting, mean(part["ms a step"]), target, unit=" ms", at_most=True)
    else:
        yield Row(what, setting, target=f"{target:g} ms")

    stages = found.get("startup", {})
    for stage in ("--help", "list", "configuration error"):
        yield least(stage, "", stages.get(stage), 0.4)
    later = found.get("cells", {})
    for world in ("exact world", "text"):
        yield least("a later cell of a sweep to its first step", f"{world}, ", later.get(world), 0.1)


def sweep(part: dict[str, Any]) -> Row:
    setting = f"1.3M, {part['steps']} steps of {part['pairs']} pairs, launcher {part['launcher']}"
    what = "sweep of 12 cells, TRL's CPU seconds over ours"
    return judged(what, setting, single(sum(part["theirs"]) / part["ours"]), 7.0)


def least(what: str, setting: str, seconds: list[float] | None, target: float) -> Row:
    """Of CPU seconds, where neighbours can only add to them."""
    if not seconds:
        return Row(what, f"{setting}CPU seconds", target=f"{target:g} s")
    setting = f"{setting}CPU seconds, best of {len(seconds)}"
    return judged(what, setting, single(min(seconds)), target, unit=" s", at_most=True)


def markdown(rows: Iterable[Row]) -> str:
    lines = [FIELDS, ["---"] * len(FIELDS), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def show(rows: Iterable[Row], load: dict[str, list[float]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*FIELDS, title=f"load {load['before'][0]:.1f} before, {load['after'][0]:.1f} after")
    for row in rows:
        table.add_row(*row)
    Console(width=160).print(table)


def troubles(found: dict[str, Any]) -> list[str]:
    """What makes the command fail."""
    failed = [f"{name} failed:\n{part['error']}" for name, part in found.items() if "error" in part]
    differ = [
        f"{name}: prefopt and TRL do not compute the same: {check} {part['checks'][check]}"
        for name, part in found.items()
        for check in (void(part) if "checks" in part else [])
    ]
    return failed + differ
