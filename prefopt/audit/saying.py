"""An audit in sentences: what was found, what to know before using it, and what to do next."""

from collections.abc import Sequence

from prefopt.audit.estimate import ASSUMES, HEADLINE
from prefopt.audit.findings import Findings

CLEAN = 0.05
"""An upper end of the interval below which nothing needs to be done."""
NONE = 0.005
"""A lower end that is no sign of flips."""


def verdict(findings: Findings) -> str:
    """The headline in a sentence."""
    found = findings.headline
    between = f"90 % interval {found.low:.1%} to {found.high:.1%}"
    if not found.sound:
        return f"No single flip rate is sound ({between}): {found.why}."
    if found.low < NONE:
        clean = (
            "No sign of flipped labels" if found.high < CLEAN else f"At most {found.high:.0%} of the labels are flipped"
        )
        return f"{clean} ({between})."
    return f"About {found.rate:.1%} of the labels are flipped ({between})."


def advice(findings: Findings, overrides: Sequence[str]) -> list[str]:
    """What to do next: commands, on the labels that were audited, and files."""
    found = findings.headline
    others = [override for override in overrides if not override.lstrip("+").startswith("noise")]
    noise = [override for override in overrides if override not in others and "noise.assumed=" not in override]
    same = " ".join([*others, *(noise or ["noise=none"])])
    if found.sound and found.high < CLEAN:
        return [f"labels this clean need no robust method: python -m prefopt.train {same} method=dpo"]
    if not found.sound or found.low < NONE:
        ends = f"noise.assumed={found.low:.2f},{min(found.high, 0.45):.2f}"
        return [
            f"see whether the rate matters: python -m prefopt.train -m {same} method=rdpo {ends}",
            f"or take a method that finds its own: python -m prefopt.train {same} method=lcpo",
            "more pairs make the interval narrower",
        ]
    return [
        f"tell the method: python -m prefopt.train {same} method=rdpo noise.assumed={found.rate:.3f}",
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
        "a flip strikes any pair alike: mistakes on close calls are not flips. What people see and the features do not "
        "makes pairs look like close calls, and the interval wide; where it outweighs the largest margins, like flips",
    ]
