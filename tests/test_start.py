"""What answers without torch, and what the start of a run does not load."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra.utils import get_object

from prefopt.config import CONF
from prefopt.outline import parameters, words
from prefopt.store import CHECKOUT

HEAVY = ("torch", "lightning", "transformers", "mlflow", "sklearn", "matplotlib", "scipy", "datasets")
NOT_FOR_RUN = ("datasets", "mlflow", "pandas", "pyarrow", "sklearn", "peft", "sqlalchemy", "alembic", "trl")
"""What `import prefopt.run` leaves to those who need it; Lightning itself brings scipy, sympy and matplotlib."""

COMMANDS = {
    "help": (["prefopt.train", "--help"], 0, "choose one of each group"),
    "the list": (["prefopt.methods"], 0, "rdpo"),
    "help of the comparison": (["prefopt.compare", "--help"], 0, "usage"),
    "help of sweeps": (["prefopt.sweep", "--help"], 0, "usage"),
    "help of the audit": (["prefopt.audit", "--help"], 0, "usage"),
    "help of claims": (["prefopt.reproduce", "--help"], 0, "usage"),
    "an unknown name": (["prefopt.train", "method=rdpp"], 2, "did you mean rdpo"),
    "a new key": (["prefopt.train", "+noise.rat=0.3"], 2, "did you mean noise.rate?"),
    "a value out of its domain": (["prefopt.train", "noise.rate=1.5"], 2, "noise.rate=1.5 is not a number in [0, 1)"),
    "parts of different worlds": (["prefopt.train", "model=log_linear"], 2, "does not run on dataset=reviews"),
}

PROGRAM = """
import json, runpy, sys
module, *sys.argv[1:] = sys.argv[1:]
try:
    code = 0
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as end:
    code = end.code or 0
print("\\n" + json.dumps([code, sorted({name.split(".")[0] for name in sys.modules})]))
"""


@pytest.mark.parametrize(("arguments", "code", "says"), COMMANDS.values(), ids=COMMANDS)
def test_help_lists_and_errors_of_configuration_answer_without_torch(
    arguments: list[str], code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFOPT_HOME", str(tmp_path / "home"))
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    left, loaded = json.loads(ended.stdout.splitlines()[-1])
    assert (left, set(HEAVY) & set(loaded)) == (code, set())
    assert says.lower() in (ended.stdout + ended.stderr).lower()
    assert not list(tmp_path.glob("home/*"))


def test_a_run_does_not_load_what_only_others_need() -> None:
    program = "import json, sys, prefopt.run; print(json.dumps(sorted({n.split('.')[0] for n in sys.modules})))"
    ended = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    loaded = set(json.loads(ended.stdout))
    assert {"torch", "lightning"} <= loaded
    assert set(NOT_FOR_RUN) & loaded == set()


def test_the_source_says_the_same_of_a_class_as_the_class_itself() -> None:
    known = {str(yaml.safe_load(path.read_text()).get("_target_")): path for path in sorted(CONF.rglob("*.yaml"))}
    ours = {target: path for target, path in known.items() if target.startswith("prefopt.")}
    assert sum(parameters(target) is not None for target in ours) > 50
    for target, path in ours.items():
        made = get_object(target)
        takes = parameters(target)
        assert takes is None or takes == set(inspect.signature(made).parameters), path
        for attribute in ("world", "worlds"):
            own = getattr(made, attribute, ())
            assert words(target, attribute) == ({own} if isinstance(own, str) else set(own)), path
