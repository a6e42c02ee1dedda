"""Training runs together: those that are alike as one, the others alone."""

from collections.abc import Callable, Hashable, Sequence

from prefopt import stop
from prefopt.loop.adapters import AdapterStack
from prefopt.loop.alike import Apart, adapters, likeness, twins
from prefopt.loop.exact import ExactStack
from prefopt.loop.fit import Training, fit
from prefopt.loop.stack import Stack
from prefopt.progress import say

KINDS: tuple[tuple[str, Callable[[Training], Hashable], type[Stack]], ...] = (
    ("exact", likeness, ExactStack),
    ("exact", twins, ExactStack),
    ("text", adapters, AdapterStack),
)
"""By world, what runs must have in common, and how they then train; one after the other, until nothing is left."""


def fit_together(trainings: Sequence[Training]) -> list[Exception | None]:
    """Train them all, those that are alike as one; what each would have raised alone, None where nothing."""
    ends: dict[int, Exception | None] = {}
    reasons: dict[int, str] = {}
    for world, key, kind in KINDS:
        left = [k for k, training in enumerate(trainings) if training.world == world and k not in ends]
        for members in _groups(trainings, left, key, reasons):
            try:
                stack = kind([trainings[k] for k in members])
            except Apart as reason:
                reasons |= dict.fromkeys(members, str(reason))
            else:
                ends |= zip(members, _fitted(stack), strict=True)
    apart = [k for k in range(len(trainings)) if k not in ends]
    if apart and len(trainings) > 1:
        first, why = trainings[apart[0]].folder.name, reasons.get(apart[0], "no other is like it")
        say(f"{len(apart)} of {len(trainings)} runs train alone; {first}: {why}")
    return [ends[k] if k in ends else _alone(training) for k, training in enumerate(trainings)]


def _groups(
    trainings: Sequence[Training],
    members: Sequence[int],
    key: Callable[[Training], Hashable],
    reasons: dict[int, str],
) -> list[list[int]]:
    """The members of every group of two or more that are alike, and of one that was in a stack before; why others are
    in none is written to `reasons`."""
    found: dict[Hashable, list[int]] = {}
    for k in members:
        try:
            found.setdefault(key(trainings[k]), []).append(k)
        except Apart as reason:
            reasons[k] = str(reason)
    return [group for group in found.values() if len(group) > 1 or trainings[group[0]].stacked.exists()]


def _fitted(stack: Stack) -> list[Exception | None]:
    try:
        return stack.fit()
    except Exception as error:
        return [end or error for end in stack.ends]


def _alone(training: Training) -> Exception | None:
    try:
        stop.check()
        fit(training)
    except Exception as error:
        return error
    return None
