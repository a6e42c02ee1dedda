"""What label noise is: which recorded preferences are turned, fixed by (example id, seed) and nested in the rate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from math import ceil, floor
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from prefopt.errors import PrefoptError

if TYPE_CHECKING:
    from prefopt.table import Table


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What noise may depend on, row by row of a split of pairs, or of choices among n responses.

    ids: [N] names. label: [N] 0 to n - 1, the preference before noise. length: [N, n] tokens of each response.
    margin: [N] how much better the preferred response is than the best other (negative where the label contradicts the
    scores).
    annotator, group: [N] names or codes. None where it is not known for every pair.
    """

    ids: np.ndarray
    label: np.ndarray
    length: np.ndarray
    margin: np.ndarray | None = None
    annotator: np.ndarray | None = None
    group: np.ndarray | None = None

    @classmethod
    def from_table(cls, pairs: Table, label: np.ndarray, gold: np.ndarray) -> Recorded:
        """From a table and the truth about it: label [N], gold [N, n] rewards (nan where unknown).

        The margin is the gold gap, else the gap of the recorded scores, else the recorded margin: the first that is
        finite for every pair, because their scales do not mix.
        """
        known, chosen = pairs.known, np.arange(pairs.n) == label[:, None]
        sides = [gold, known["scores"]] if "scores" in known else [gold]
        gaps = [side[chosen] - np.where(chosen, -np.inf, side).max(1) for side in sides]
        gaps += [known["margin"]] if "margin" in known else []
        return cls(
            ids=pairs.ids,
            label=label,
            length=pairs.response.lengths.reshape(len(pairs), -1),
            margin=next((gap for gap in gaps if np.isfinite(gap).all()), None),
            annotator=known.get("annotator_name", known.get("annotator")),
            group=known.get("group_name", known.get("group")),
        )


def uniform(ids: np.ndarray, seed: int, purpose: str = "flip") -> np.ndarray:
    """[N] numbers, uniform in the open (0, 1), each a pure function of (id, seed, purpose)."""
    key, person = str(seed).encode(), purpose.encode()
    digests = (blake2b(id.encode(), digest_size=8, key=key, person=person).digest() for id in ids.tolist())
    return ((np.frombuffer(b"".join(digests), dtype="<u8") >> np.uint64(12)) + 0.5) * 2.0**-52


class Noise(ABC):
    """One way in which labels go wrong.

    rate: share of the labels that is turned (in expectation, except where a kind says exactly). assumed: the rate that
    the method believes in, or `estimated` from the labels; stored here and used by no noise. Raises `PrefoptError` on
    numbers that cannot be rates.
    """

    cap: ClassVar[float] = 1.0
    """The largest probability with which a single pair flips, and what `rate` stays below."""
    of_choices: ClassVar[bool] = False
    """Whether it also turns choices among more than two responses."""

    def __init__(self, *, rate: float, assumed: float | str) -> None:
        if not (isinstance(rate, (int, float)) and 0 <= rate < self.cap):
            raise PrefoptError(
                f"noise.rate={rate!r} is not a number in [0, {self.cap:g}), as noise={self.kind} needs",
                "noise.rate=0.2 turns one label in five, noise=none turns none"
                + ("" if self.cap == 1 else "; noise=flip takes any rate below 1"),
            )
        if assumed != "estimated" and not (isinstance(assumed, (int, float)) and 0 <= assumed < float("inf")):
            raise PrefoptError(
                f"noise.assumed={assumed!r} is not a number >= 0",
                "leave noise.assumed out to let the method believe noise.rate, give the rate that it believes in, or "
                "noise.assumed=estimated",
            )
        self.rate, self.assumed = rate, assumed

    @property
    def kind(self) -> str:
        """Its name on the command line, which is that of its module."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def flips(self, pairs: Recorded, seed: int) -> np.ndarray:
        """[N] whether each label is turned; what is turned at one rate is turned at every larger one."""

    def labels(self, pairs: Recorded, seed: int) -> np.ndarray:
        """[N] the labels as they are recorded after noise. Raises `PrefoptError` for choices that it cannot turn."""
        responses = pairs.length.shape[1]
        if responses > 2 and not self.of_choices:
            raise PrefoptError(
                f"noise={self.kind} turns preferences between two, and these are choices among {responses}",
                "choose noise=flip, noise=confused or noise=none",
            )
        return np.where(self.flips(pairs, seed), self._turned(pairs, seed), pairs.label)

    def _turned(self, pairs: Recorded, seed: int) -> np.ndarray:
        """[N] what each label becomes if it is turned: any of the others, all alike."""
        others = pairs.length.shape[1] - 1
        if others == 1:
            return 1 - pairs.label
        return (pairs.label + 1 + (others * uniform(pairs.ids, seed, "other")).astype(int)) % (others + 1)

    def needed(self, pairs: Recorded, column: str) -> np.ndarray:
        """The column of `pairs`, or a `PrefoptError` where the dataset has none."""
        values: np.ndarray | None = getattr(pairs, column)
        if values is None:
            raise PrefoptError(
                f"noise={self.kind} needs the column {column} for every pair, and this dataset does not have it",
                "add it to the data (for a margin, score_chosen and score_rejected do as well), or choose noise=flip,"
                " asymmetric or length_bias, which work without it",
            )
        return values

    def reached(self, least: float, most: float) -> None:
        """Raises `PrefoptError` where the rate is not one that this noise can have: from `least` to `most`."""
        if least <= self.rate <= most:
            return
        above = self.rate > most
        bound = f"at most {floor(most * 1000) / 1000:g}" if above else f"at least {ceil(least * 1000) / 1000:g}"
        raise PrefoptError(
            f"noise.rate={self.rate:g} is out of reach of noise={self.kind}, which here turns {bound} of the labels",
            f"choose a noise.rate of {bound}, or noise=flip, which takes any rate below 1",
        )

    def level(self, mean: Callable[[float], float]) -> float:
        """The t at which the rising function `mean` (flip probability over all pairs) is `rate`; 0 for rate 0.

        Bisects the exponent of t on a grid that no rate moves, so that a larger rate never gets a smaller t, whatever
        the rounding. Raises `PrefoptError` where no t gives the rate.
        """
        if self.rate == 0:
            return 0.0
        low, high = -256.0, 256.0
        self.reached(mean(2.0**low), mean(2.0**high))
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if mean(2.0**middle) < self.rate else (low, middle)
        return 2.0**high
