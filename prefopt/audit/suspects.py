"""The pairs whose recorded labels contradict their features, as a person can read them."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from prefopt.audit.findings import Findings
from prefopt.table import Ragged, Table

Decode = Callable[[np.ndarray], str]


class Suspect(NamedTuple):
    """A pair whose label contradicts its features; the texts are those of the recorded winner and loser."""

    rank: int
    id: str
    p_flipped: float
    margin: float
    prompt: str
    winner: str
    loser: str


def suspects(findings: Findings, table: Table, decode: Decode) -> list[Suspect]:
    """The suspicious pairs, worst first."""
    p = findings.suspicion
    found = []
    for rank, row in enumerate(findings.suspicious.tolist(), 1):
        label = int(table.columns["label"][row])
        winner, loser = (decode(_row(table.response, 2 * row + side)) for side in (label, 1 - label))
        prompt = decode(_row(table.prompt, row))
        margin = findings.fit.scale * float(findings.margins[row])
        found.append(Suspect(rank, str(table.ids[row]), float(p[row]), margin, prompt, winner, loser))
    return found


def _row(ragged: Ragged, place: int) -> np.ndarray:
    return ragged.values[ragged.offsets[place] : ragged.offsets[place + 1]]


def as_csv(suspected: Sequence[Suspect]) -> str:
    """A line for each, whole texts and all."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(Suspect._fields)
    lines.writerows(suspected)
    return text.getvalue()
