"""What there is to choose from, read from conf/method without loading any of it.

The comment at the top of a method's YAML says what it is, and the docstring with its equation who wrote it:

    # <full name> (arXiv <id>): <when to choose it>                                    conf/method/<method>.yaml
    ... (<authors>, <year>, arXiv <id>) ...                                            prefopt/methods/<family>/...

A paper that is not on arXiv stands in the YAML in full, (<authors>, <year>), and what the paper calls the method may
stand behind its id: (arXiv <id>, there <name>).
"""

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from prefopt.errors import PrefoptError
from prefopt.outline import lineage, tree, value
from prefopt.store import CHECKOUT

METHODS = CHECKOUT / "conf" / "method"
FAMILIES = ("demonstrations", "pairwise", "reward", "selection", "online", "iterative")
FOOD = {"Degraded": "pairs", "Revised": "pairs", "Reasoned": "pairs with rationales"}
"""Kinds of batch that are made of what a dataset gives, or that a reader may not know."""
ABOUT = re.compile(
    r"(?P<name>[^()]+) \((arXiv (?P<id>\d{4}\.\d{5})(?P<there>, [^()]+)?|(?P<paper>[^()]+, \d{4}))\)(?P<more>[^:]*)"
    r": (?P<when>.+)"
)
CITED = re.compile(r"[(;]\s*(?:[a-z -]+ (?:in|of) )?(?P<paper>[^();]+ \d{4}), arXiv\s(?P<id>\d{4}\.\d{5})")


@dataclass(frozen=True)
class Entry:
    """One method: its name on the command line, full name, authors and year, arXiv id ("" where it has none), family,
    what its dataset must give, and when to choose it."""

    method: str
    name: str
    paper: str
    id: str
    family: str
    eats: str
    when: str


def entries() -> list[Entry]:
    """All of conf/method, by family and name.

    Raises PrefoptError where a YAML does not say what it is.
    """
    found = [_entry(path) for path in METHODS.glob("*.yaml")]
    order = {family: place for place, family in enumerate(FAMILIES)}
    return sorted(found, key=lambda entry: (order.get(entry.family, len(order)), entry.family, entry.method))


def parts(kind: str) -> dict[str, str]:
    """What each `objective`, or each `robust`(ifier), is, by name: the first words of its docstring."""
    found = {}
    for path in sorted((METHODS / kind).glob("*.yaml")):
        module = yaml.safe_load(path.read_text())["_target_"].rpartition(".")[0]
        said = " ".join((ast.get_docstring(tree(module)) or "").split("\n\n")[0].split())
        found[path.stem] = re.split(r"(?<=[^.]{2})[.:](?: |$)", said)[0]
    return found


def _entry(path: Path) -> Entry:
    text = path.read_text()
    comment = re.match(r"(#.*\n)*", text)
    assert comment is not None
    said = ABOUT.fullmatch(" ".join(line.lstrip("# ") for line in comment[0].splitlines()))
    if said is None:
        raise PrefoptError(
            f"{path}: its first comment does not say what it is",
            "begin it with '# <full name> (arXiv <id>): <when to choose it>', over one line or more",
        )
    paper = said["paper"] or _papers().get(said["id"])
    if paper is None:
        raise PrefoptError(
            f"{path} names arXiv {said['id']}, and no docstring of prefopt/methods says who wrote it",
            f"cite it where its equation stands: (<authors>, <year>, arXiv {said['id']})",
        )
    target = yaml.safe_load(text)["_target_"]
    return Entry(
        method=path.stem,
        name=said["name"] + (said["there"] or "") + said["more"],
        paper=paper,
        id=said["id"] or "",
        family=target.split(".")[2],
        eats=_eaten(target),
        when=said["when"],
    )


def _eaten(target: str) -> str:
    """The kind of batch that a dataset must give to the class `target`: prompts where it makes its own examples, else
    what the class, or the first of its bases that says so, eats."""
    for node in lineage(target):
        if any(isinstance(n, ast.Attribute) and n.attr == "per_round" for n in ast.walk(node)):
            return "prompts"
        if (said := value(node, "eats")) is not None:
            kind = ast.unparse(said)
            return FOOD.get(kind, kind.lower())
    raise AssertionError(f"{target} does not say what it eats")


@cache
def _papers() -> dict[str, str]:
    """Authors and year of each arXiv id that a docstring of a method cites."""
    texts = (path.read_text() for path in sorted((CHECKOUT / "prefopt" / "methods").rglob("*.py")))
    found = (match for text in texts for match in CITED.finditer(" ".join(text.split())))
    return {match["id"]: match["paper"] for match in found}
