"""The house: a file imports only from floors below its own, and nothing goes round in a circle."""

import ast
import sys
import tomllib
from functools import cache
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
FLOORS = [
    {"errors", "files"},
    {"ranks"},
    {"progress", "stop"},
    {"store"},
    {"outline"},
    {"batch"},
    {"table"},
    {"members", "noise", "tracking"},
    {"engine"},
    {"datasets"},
    {"models", "optim"},
    {"methods", "evaluation"},
    {"config", "loop"},
    {"audit", "cast"},
    {"belief", "foresee", "help"},
    {"check"},
    {"run", "claims", "summary"},
    {"manifest"},
    {"comparison"},
    {"train", "reproduce", "compare", "sweep", "track", "__main__"},
]
"""From the ground up; parts on one floor do not know each other. The engine is below datasets and models: it works on
tensors and on whatever is callable, and models are made of it. What `python -m prefopt.datasets` runs is an entry."""
DISTRIBUTIONS = {"hydra": "hydra-core", "yaml": "pyyaml", "sklearn": "scikit-learn", "ot": "pot"}


@cache
def imports() -> dict[str, set[str]]:
    """What each file of prefopt imports, late imports and those for types among them, by dotted name."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "prefopt").rglob("*.py")):
        names = found.setdefault(named(path), set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def named(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def within() -> dict[str, set[str]]:
    """The files of prefopt that each file of prefopt imports."""
    files = imports().keys()
    known: dict[str, set[str]] = {}
    for file, names in imports().items():
        ours = {name for name in names if name.split(".")[0] == "prefopt"}
        known[file] = {name if name in files else name.rpartition(".")[0] for name in ours} - {"prefopt"}
        assert known[file] <= files, f"{file} imports {known[file] - files}, which does not exist"
    return known


def part(file: str) -> str:
    return "__main__" if file.endswith(".__main__") else file.split(".")[1]


def test_every_part_has_its_floor_and_every_file_imports_from_below() -> None:
    floor = {name: height for height, names in enumerate(FLOORS) for name in names}
    homeless = {part(file) for file in imports() if file != "prefopt"} - floor.keys()
    assert homeless == set(), "say in FLOORS where they live"
    wrong = [
        f"{file} imports {other}"
        for file, others in within().items()
        for other in others
        if part(file) != part(other) and floor[part(other)] >= floor[part(file)]
    ]
    assert wrong == []


def test_no_file_imports_itself_by_a_detour() -> None:
    known = within()
    done: set[str] = set()

    def visit(file: str, path: tuple[str, ...]) -> None:
        assert file not in path, " > ".join((*path[path.index(file) :], file))
        if file not in done:
            for other in known[file]:
                visit(other, (*path, file))
            done.add(file)

    for file in known:
        visit(file, ())


def test_all_that_is_imported_is_a_declared_dependency() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {"".join(c if c.isalnum() or c in "-_" else " " for c in line).split()[0].lower() for line in declared}
    used = {name.split(".")[0] for names_ in imports().values() for name in names_} - set(sys.stdlib_module_names)
    assert {DISTRIBUTIONS.get(name, name) for name in used - {"prefopt", "launchers"}} <= names


def test_the_file_of_a_method_is_short() -> None:
    files = [path for path in (ROOT / "prefopt" / "methods").glob("*/**/*.py") if path.stem != "__init__"]
    assert median(len(path.read_text().splitlines()) for path in files) < 60


def test_every_sweep_can_be_chosen_by_name() -> None:
    sweeps = {path.name for path in (ROOT / "sweeps").glob("*.yaml")}
    chosen = {path.name: path.resolve() for path in (ROOT / "conf" / "sweep").iterdir()}
    assert chosen == {name: ROOT / "sweeps" / name for name in sweeps}


def test_only_the_sweep_knows_how_runs_reach_a_cluster() -> None:
    knowing = {file for file, names in imports().items() if any(name.split(".")[0] == "launchers" for name in names)}
    assert knowing == {"prefopt.sweep"}
