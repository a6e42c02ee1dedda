"""An audit in sentences: what was found, what to know before using it, and what to do next."""

from collections.abc import Sequence

from prefopt.audit.estimate import ASSUMES, HEADLINE
from prefopt.audit.findings import Findings

CLEAN = 0.005
"""A rate below which nothing needs to be done."""


def verdict(findings: Findings) -> str:
    """The headline in a sentence."""
    found = findings.headline
    if not found.sound:
        between = f"The flip rate is between {found.low:.2f} and {found.high:.2f}, and no single number is sound"
        return f"{between}: {found.why}."
    if found.low < CLEAN:
        return f"No sign of flipped labels (90 % interval {found.low:.1%} to {found.high:.1%})."
    return f"About {found.rate:.1%} of the labels are flipped (90 % interval {found.low:.1%} to {found.high:.1%})."


def advice(findings: Findings, overrides: Sequence[str]) -> list[str]:
    """What to do next: commands and files."""
    found = findings.headline
    same = " ".join(override for override in overrides if not override.startswith("noise"))
    train = f"python -m prefopt.train {same} noise=none".replace("  ", " ")
    if not found.sound:
        return [
            f"methods that need no rate: {train} method=lcpo",
            f"how much the rate matters: -m method=rdpo noise.assumed={found.low:.2f},{min(found.high, 0.45):.2f}",
        ]
    if found.low < CLEAN:
        return [
            f"nothing asks for a robust method: {train} method=dpo",
            f"against the worst that the interval allows: {train} method=rdpo noise.assumed={found.high:.3f}",
        ]
    return [
        f"tell a method that takes a rate: {train} method=rdpo noise.assumed={found.rate:.3f}",
        "or let the run estimate it, in the place of the number: noise.assumed=estimated",
        "read suspicious.csv from the top; ids with p_flipped above 0.5 are more likely wrong than right",
    ]


def warnings(findings: Findings) -> list[str]:
    """What the reader must know before using the number."""
    said = [
        f"{name} disagrees with {HEADLINE}: their 90 % intervals do not meet, so not both of their assumptions hold "
        f"({ASSUMES[name]}; against: {ASSUMES[HEADLINE]})"
        for name in findings.disagreeing
    ]
    return [
        *said,
        "a flip is a label that contradicts the choice of careful people whatever the pair; close calls are not flips. "
        "What the features do not see and yet decides labels counts as flips",
    ]
