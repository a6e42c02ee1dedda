"""The design of a comparison: arms, settings, noise rates and seeds, and whether like is averaged with like.

An *arm* is what is compared: a method, and what else of its making varies. A *setting* is what all arms must share to
be compared: dataset, model, kind of noise. Both are told apart by the *axes*: method, dataset, model, noise and
noise.rate always, and whatever else the sweep or the filter gave several values. Whatever varies beside the axes and
the seed makes two cells unequal.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from prefopt.comparison.cells import Cell, valued
from prefopt.errors import PrefoptError

ALWAYS = ("method", "dataset", "model", "noise")
RATE, ASSUMED, SEED = "noise.rate", "noise.assumed", "seed"
PRODUCT = ("method.objective", "method.robust")
"""Choices that the method's name tells already."""
EFFORT = ("method.beta", "method.kl", "method.samples")
"""How hard a method optimises: arms that differ in these alone are points of one curve."""
OF_SETTINGS = ("dataset", "model", "noise")
TOLD = "told the rate"
WITHOUT_OUTCOME = ("choices", "tracking", "recipe", "model.recipe", "trainer.checkpoint_every_s", "evaluation.figures")
"""Keys that change nothing about a run, or only through others."""


@dataclass(frozen=True)
class Placed:
    """A cell and its place in the design. curve: the arm, however hard it optimises."""

    cell: Cell
    arm: str
    setting: str
    curve: str

    @property
    def rate(self) -> float:
        return self.cell.rate

    @property
    def seed(self) -> int:
        return self.cell.seed


@dataclass(frozen=True)
class Design:
    """All cells, each in its place; independent of the order in which they were found."""

    placed: tuple[Placed, ...]
    axes: tuple[str, ...]

    @classmethod
    def of(cls, cells: Sequence[Cell], swept: set[str], allowed: Sequence[str]) -> "Design":
        """swept: the keys that were given several values.

        Raises PrefoptError where cells of one arm and setting differ in more than seed and noise rate, unless the key
        is in `allowed`; and where two cells have the same place.
        """
        keys = sorted({key.replace("/", ".") for key in swept} - {RATE, SEED, *ALWAYS, *PRODUCT})
        axes = (*ALWAYS, *keys)
        values = {cell.run: {axis: _along(cell, axis) for axis in axes} for cell in cells}
        of_arms = [axis for axis in axes if axis == ASSUMED or axis.split(".")[0] not in OF_SETTINGS]
        of_settings = [axis for axis in axes if axis not in of_arms]
        of_curves = [axis for axis in of_arms if axis not in EFFORT]
        arms, settings, curves = (
            _labels([tuple(values[cell.run][axis] for axis in named) for cell in cells], named)
            for named in (of_arms, of_settings, of_curves)
        )
        if len(set(settings)) == 1:
            settings = [""] * len(cells)
        found = [Placed(*place) for place in zip(cells, arms, settings, curves, strict=True)]
        found.sort(key=lambda place: (place.setting, place.arm, place.rate, place.seed, place.cell.run))
        design = cls(tuple(found), axes)
        design._refuse_unequal((*allowed, *(key.replace("/", ".") for key in allowed)))
        return design

    @cached_property
    def arms(self) -> tuple[str, ...]:
        return tuple(sorted({place.arm for place in self.placed}))

    @cached_property
    def settings(self) -> tuple[str, ...]:
        return tuple(sorted({place.setting for place in self.placed}))

    @cached_property
    def rates(self) -> tuple[float, ...]:
        return tuple(sorted({place.rate for place in self.placed}))

    @property
    def done(self) -> list[Cell]:
        return [place.cell for place in self.placed if place.cell.done]

    def at(self, setting: str, arm: str, rate: float) -> list[Placed]:
        return [p for p in self.placed if (p.setting, p.arm, p.rate) == (setting, arm, rate)]

    def values(self, figure: str, setting: str, arm: str, rate: float) -> dict[int, float]:
        """A figure by seed, where it was measured and is finite; the mean of a seed's cells where several may count."""
        by_seed: dict[int, list[float]] = {}
        for place in self.at(setting, arm, rate):
            value = place.cell.figures.get(figure)
            if value is not None and math.isfinite(value):
                by_seed.setdefault(place.seed, []).append(value)
        return {seed: math.fsum(values) / len(values) for seed, values in sorted(by_seed.items())}

    def baseline(self, wanted: str | None) -> str:
        """The arm that the others are tested against: the one wanted (by label, or by method where that is one arm),
        else dpo, else the first.

        Raises PrefoptError where no arm, or more than one, is meant.
        """
        if wanted is None:
            return next((arm for arm in self.arms if arm.partition(" ")[0] == "dpo"), self.arms[0])
        meant = [arm for arm in self.arms if arm == wanted]
        meant = meant or [arm for arm in self.arms if arm.partition(" ")[0] == wanted]
        if len(meant) != 1:
            raise PrefoptError(
                f"--baseline {wanted}: {'more than one arm' if meant else 'no arm'} of that name",
                f"choose one of {', '.join(repr(arm) for arm in meant or self.arms)}",
            )
        return meant[0]

    def _refuse_unequal(self, allowed: tuple[str, ...]) -> None:
        for setting in self.settings:
            here = [place for place in self.placed if place.setting == setting]
            for arm in self.arms:
                _refuse_configs([place for place in here if place.arm == arm], (*WITHOUT_OUTCOME, *allowed), self.axes)
            _refuse_counts([place for place in here if place.cell.done], allowed)
        self._refuse_twice(allowed)

    def _refuse_twice(self, allowed: tuple[str, ...]) -> None:
        first: dict[tuple[Any, ...], Cell] = {}
        for place in self.placed:
            facts = {**place.cell.flat, **place.cell.data}
            differing = tuple((key, value) for key, value in facts.items() if _within(key, allowed))
            at = (place.setting, place.arm, place.rate, place.seed, differing)
            if at in first:
                raise PrefoptError(
                    f"{place.arm} at noise rate {place.rate:g} has two runs of seed {place.seed}, alike in their "
                    f"configs: {first[at].run} and {place.cell.run}",
                    "one was made from other files, or by another version: compare a sweep, or delete one of the two",
                )
            first[at] = place.cell


def unequal(cells: Sequence[Cell], without: Sequence[str]) -> dict[str, dict[Any, Cell]]:
    """The keys in which cells differ other than by following their seed, noise rate or assumed rate: one cell for
    each value (None: no such key)."""
    found: dict[str, dict[Any, Cell]] = {}
    for key in sorted({key for cell in cells for key in cell.flat}):
        if _within(key, without):
            continue
        values = {cell.flat.get(key): cell for cell in reversed(cells)}
        following = ([cell.flat.get(leader) for cell in cells] for leader in (SEED, RATE, ASSUMED) if key != leader)
        if len(values) > 1 and [cell.flat.get(key) for cell in cells] not in following and key not in (SEED, RATE):
            found[key] = values
    return found


def _within(key: str, others: Sequence[str]) -> bool:
    return any(key == other or key.startswith(f"{other}.") for other in others)


def _refuse_configs(places: Sequence[Placed], without: Sequence[str], axes: Sequence[str]) -> None:
    cells = [place.cell for place in places]
    different = unequal(cells, without)
    if ASSUMED in axes:
        different.pop(ASSUMED, None)
    if not different:
        return
    key, values = next(iter(different.items()))
    shown = ", ".join(f"{value} in {cell.run}" for value, cell in sorted(values.items(), key=lambda item: str(item[0])))
    more = f" (and {', '.join(list(different)[1:6])})" if len(different) > 1 else ""
    told = ",".join(sorted(str(value) for value in values if value is not None))
    raise PrefoptError(
        f"cells of {places[0].arm} differ in more than seed and noise rate: {key} is {shown}{more}",
        f"choose one ({key}={told.partition(',')[0]}), tell them apart ({key}={told}), "
        f"or average over the difference: --allow {key}",
    )


def _refuse_counts(places: Sequence[Placed], allowed: Sequence[str]) -> None:
    for key in sorted({key for place in places for key in place.cell.data if key.endswith("/used")}):
        values = {place.cell.data.get(key): place.cell for place in reversed(places)}
        if len(values) > 1 and key not in allowed:
            shown = ", ".join(f"{n} in {cell.run}" for n, cell in sorted(values.items(), key=lambda item: str(item[0])))
            raise PrefoptError(
                f"cells of one comparison did not use as many examples: {key} is {shown}",
                f"find out which were dropped (facts.json of the runs), or compare all the same: --allow {key}",
            )


def _along(cell: Cell, axis: str) -> Any:
    value = valued(cell, axis)
    return TOLD if axis == ASSUMED and value == cell.rate else value


def _labels(identities: Sequence[tuple[Any, ...]], axes: Sequence[str]) -> list[str]:
    """The shortest names that tell identities apart: the first axis, and in brackets what varies beside it."""
    names = {axis: axis.rpartition(".")[-1] for axis in axes}
    if len(set(names.values())) < len(axes):
        names = {axis: axis for axis in axes}
    labels = {}
    for identity in set(identities):
        alike = [other for other in identities if other[0] == identity[0]]
        varying = [k for k in range(1, len(axes)) if len({str(other[k]) for other in alike}) > 1]
        described = ", ".join(
            text for k in varying if identity[k] is not None and (text := _said(names[axes[k]], identity[k]))
        )
        labels[identity] = f"{identity[0]} ({described})" if described else str(identity[0])
    return [labels[identity] for identity in identities]


def _said(name: str, value: Any) -> str:
    if value == TOLD:
        return TOLD
    if isinstance(value, str):
        return value
    text = f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
    return f"told {text}" if name in ("assumed", ASSUMED) else f"{name} {text}"
