"""What the source of prefopt's classes says, read without importing them: torch and Lightning take seconds to load."""

import ast
from collections.abc import Iterator
from functools import cache

from prefopt.store import CHECKOUT


@cache
def tree(module: str) -> ast.Module:
    """The source of a module of prefopt, by its dotted name."""
    return ast.parse((CHECKOUT / (module.replace(".", "/") + ".py")).read_text())


def lineage(target: str) -> Iterator[ast.ClassDef]:
    """The class of this dotted name, then its first base, the first base of that, as far as they are prefopt's.

    Nothing where the name is not that of a class of prefopt.
    """
    module, _, name = target.rpartition(".")
    while module.startswith("prefopt."):
        body = tree(module).body
        node = next((n for n in body if isinstance(n, ast.ClassDef) and n.name == name), None)
        if node is not None:
            yield node
            if not node.bases:
                return
            name = ast.unparse(node.bases[0])
        homes = {alias.name: n.module or "" for n in body if isinstance(n, ast.ImportFrom) for alias in n.names}
        if node is None and name not in homes:
            return
        module = homes.get(name, module)


def value(node: ast.ClassDef, attribute: str) -> ast.expr | None:
    """What the body of the class assigns to this attribute, None where it says nothing of it."""
    for n in node.body:
        targets = n.targets if isinstance(n, ast.Assign) else [n.target] if isinstance(n, ast.AnnAssign) else []
        if isinstance(n, ast.Assign | ast.AnnAssign) and any(ast.unparse(target) == attribute for target in targets):
            return n.value
    return None


def words(target: str, attribute: str) -> set[str] | None:
    """The strings in what the class assigns to this attribute: {"text"} of `world = "text"`; None where its source is
    not prefopt's."""
    if not target.startswith("prefopt."):
        return None
    said = next((found for node in lineage(target) if (found := value(node, attribute)) is not None), None)
    if said is None:
        return set()
    return {n.value for n in ast.walk(said) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def parameters(target: str) -> set[str] | None:
    """The names of the arguments that the class takes; None where its source does not say."""
    for node in lineage(target):
        if node.decorator_list:
            return None
        for n in node.body:
            if isinstance(n, ast.FunctionDef) and n.name == "__init__":
                named = {argument.arg for argument in (*n.args.args, *n.args.kwonlyargs)} - {"self"}
                return None if n.args.kwarg or n.args.vararg else named
    return None
