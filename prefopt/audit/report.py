"""An audit written down: Markdown and JSON."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import NamedTuple

import numpy as np

from prefopt.audit.estimate import ASSUMES, HEADLINE, Estimate
from prefopt.audit.findings import Findings
from prefopt.audit.saying import verdict, warnings
from prefopt.audit.suspects import Suspect

LISTED = 10
LENGTH = 160


class Injected(NamedTuple):
    """Flips that were made here, to see whether they are found: rate asked for, share that it came to, and how well
    suspicion tells them from the others."""

    rate: float
    share: float
    auroc: float


def markdown(
    title: str, findings: Findings, suspected: Sequence[Suspect], injected: Injected | None, next_: Sequence[str]
) -> str:
    """The whole report; the figure is linked as figures/audit.png."""
    return "\n".join(_markdown(title, findings, suspected, injected, next_)) + "\n"


def _markdown(
    title: str, findings: Findings, suspected: Sequence[Suspect], injected: Injected | None, next_: Sequence[str]
) -> Iterator[str]:
    margins = findings.margins
    yield from (f"# Noise audit of {title}", "", verdict(findings), "")
    predicted = f"out of fold they predict {np.mean(margins > 0):.1%} of the labels"
    yield f"- {len(margins)} training pairs, {findings.features} features; {predicted}"
    if injected:
        on_purpose = f"{injected.share:.1%} of the labels were flipped here on purpose (noise.rate={injected.rate:g})"
        yield f"- {on_purpose}; suspicion finds them with AUROC {injected.auroc:.3f}"
    yield from (f"- {line}" for line in warnings(findings))
    yield from ("", "![Flip rates and what they rest on](figures/audit.png)", "", "## Estimates", "")
    yield from _table(("estimator", "flip rate", "90 % interval", "assumes", "verdict"), list(_estimates(findings)))
    if findings.parts:
        yield from ("", "## By part", "")
        rows = [(part.by, part.name, str(part.pairs), *_numbers(part.estimate)) for part in findings.parts]
        yield from _table(("by", "part", "pairs", "flip rate", "90 % interval"), rows)
        yield from ("", "–: too little is known of such a part for a number.")
    yield from ("", "## Next", "", *(f"- {line}" for line in next_), "", "## Most suspicious", "")
    shown = [
        (s.id, f"{s.p_flipped:.2f}", *(brief(text) for text in (s.prompt, s.winner, s.loser)))
        for s in suspected[:LISTED]
    ]
    yield from _table(("id", "P(flipped)", "prompt", "recorded winner", "recorded loser"), shown)
    yield from ("", f"The first {len(suspected)} are in suspicious.csv.")


def _estimates(findings: Findings) -> Iterator[tuple[str, ...]]:
    for name, found in findings.estimates.items():
        shown = f"**{name}**" if name == HEADLINE else name
        yield shown, *_numbers(found), ASSUMES[name], "disagrees" if name in findings.disagreeing else found.why


def _numbers(found: Estimate) -> tuple[str, str]:
    return (f"{found.rate:.3f}" if found.sound else "–"), f"{found.low:.3f} to {found.high:.3f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    yield from ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def brief(text: str) -> str:
    """A text in one line, its end where it is long: that is where two responses differ."""
    line = " ".join(text.split())
    return line if len(line) <= LENGTH else f"… {line[-LENGTH:]}"


def as_json(title: str, findings: Findings, injected: Injected | None) -> str:
    """All numbers of the report."""
    found = {
        "dataset": title,
        "pairs": len(findings.margins),
        "features": findings.features,
        "predicted": float(np.mean(findings.margins > 0)),
        "headline": HEADLINE,
        "estimates": {name: asdict(estimate) for name, estimate in findings.estimates.items()},
        "disagreeing": findings.disagreeing,
        "parts": [asdict(part) for part in findings.parts],
        "injected": injected and injected._asdict(),
    }
    return json.dumps(found, indent=2)
