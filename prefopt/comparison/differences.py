"""What differs between the cells of a comparison: their configs, their data, and what they ran on."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prefopt.comparison.cells import Cell
from prefopt.comparison.design import ASSUMED, RATE, SEED, WITHOUT_OUTCOME, Design


class Difference(NamedTuple):
    """A key, and its values, each with the arms that have it (none where all do)."""

    key: str
    values: tuple[tuple[str, tuple[str, ...]], ...]


def of_configs(design: Design) -> list[Difference]:
    """The keys whose values differ between cells; `= KEY` where they follow that key in all cells of an arm."""
    differences = []
    for key in sorted({key for place in design.placed for key in place.cell.flat}):
        if any(key == other or key.startswith(f"{other}.") for other in WITHOUT_OUTCOME):
            continue
        if len({place.cell.flat.get(key) for place in design.placed}) == 1:
            continue
        having: dict[str, list[str]] = {}
        for arm in design.arms:
            said = _said(key, [place.cell for place in design.placed if place.arm == arm])
            having.setdefault(said, []).append(arm)
        everyone = len(having) == 1
        differences.append(
            Difference(key, tuple((said, () if everyone else tuple(arms)) for said, arms in having.items()))
        )
    return differences


def of_data(design: Design) -> list[Difference]:
    """The counts of examples, one line a count, whether they differ or not."""
    found = []
    for key in sorted({key for cell in design.done for key in cell.data}):
        values = sorted({cell.data.get(key, 0) for cell in design.done})
        said = f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"
        found.append(Difference(key, ((said, ()),)))
    return found


def of_surroundings(design: Design) -> tuple[list[Difference], list[str]]:
    """Versions, machine, device and git state, and a warning for each that differs or is not known to be clean."""
    flat = {cell.run: _surroundings(cell.environment) for cell in design.done}
    differences, warnings = [], []
    for key in sorted({key for facts in flat.values() for key in facts}):
        having: dict[str, list[str]] = {}
        for run, facts in sorted(flat.items()):
            having.setdefault(str(facts.get(key)), []).append(run)
        if len(having) == 1:
            differences.append(Difference(key, tuple((value, ()) for value in having)))
            continue
        counted = [(value, _cells(len(runs))) for value, runs in having.items()]
        differences.append(Difference(key, tuple((value, (many,)) for value, many in counted)))
        warnings.append(f"{key} differs: " + "; ".join(f"{value} in {many}" for value, many in counted) + ".")
    dirty = sum(bool((cell.environment.get("git") or {}).get("dirty")) for cell in design.done)
    if dirty:
        warnings.append(f"{dirty} of {_cells(len(design.done))} ran code that no commit holds (git dirty).")
    return differences, warnings


def _said(key: str, cells: Sequence[Cell]) -> str:
    values = [cell.flat.get(key) for cell in cells]
    for leader in (SEED, RATE, ASSUMED):
        if (
            key not in (SEED, RATE, leader)
            and len(set(values)) > 1
            and values == [cell.flat.get(leader) for cell in cells]
        ):
            return f"= {leader}"
    if all(value is None for value in values) and not any(key in cell.flat for cell in cells):
        return "not set"
    return ", ".join(_shown(value) for value in sorted(set(values), key=_order))


def _order(value: Any) -> tuple[int, float, str]:
    number = isinstance(value, int | float)
    return (0, value, "") if number else (1, 0.0, str(value))


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "null" if value is None else str(value)


def _surroundings(environment: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: environment.get(key) for key in ("python", "platform", "cuda")}
    git = (environment.get("git") or {}).get("commit")
    return {**kept, **dict(environment.get("packages") or {}), "git commit": git and git[:12]}


def _cells(n: int) -> str:
    return f"{n} cell{'' if n == 1 else 's'}"
