"""The list of methods says what is, is in the README, and the plot of a method is that of its loss."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra.utils import get_class

from prefopt.batch import Pairs, Reasoned
from prefopt.config import CONF, composed, made, plain
from prefopt.errors import PrefoptError
from prefopt.methods import __main__ as command
from prefopt.methods import catalogue
from prefopt.methods.catalogue import entries, parts
from prefopt.methods.influence import influence


def method(*overrides: str) -> Any:
    return made(plain(composed(overrides))["method"])


def test_every_method_is_listed_with_its_paper() -> None:
    found = entries()
    assert sorted(e.method for e in found) == sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
    assert len({e.name for e in found}) == len(found), "names are unambiguous"
    for entry in found:
        assert entry.paper[-4:].isdigit() and entry.when, entry
    assert {e.method for e in found if not e.id} == {"cdpo"}, "what is not on arXiv"


def test_what_a_method_eats_is_what_its_class_says() -> None:
    one_of_each = {yaml.safe_load((CONF / "method" / f"{e.method}.yaml").read_text())["_target_"]: e for e in entries()}
    for target, entry in one_of_each.items():
        eats, own = get_class(target).eats, method(f"method={entry.method}").per_round is not None
        kind = "pairs" if issubclass(eats, Pairs) else eats.__name__.lower()
        name = "pairs with rationales" if eats is Reasoned else kind
        assert entry.eats == ("prompts" if own else name), entry


@pytest.mark.parametrize("kind", ["objective", "robust"])
def test_every_part_of_the_product_says_what_it_is(kind: str) -> None:
    found = parts(kind)
    assert sorted(found) == sorted(path.stem for path in (CONF / "method" / kind).glob("*.yaml"))
    assert [name for name, said in found.items() if len(said) < 10] == []


def test_the_table_of_the_readme_is_true() -> None:
    readme = command.README.read_text()
    assert readme.count("| `lcpo` |") == 1
    assert command.with_table(readme) == readme, "run python -m prefopt.methods readme"


def test_the_list_is_printed_without_loading_torch() -> None:
    code = "import sys; from prefopt.methods.__main__ import main; main([]); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "False"
    for words in ("pairwise", "Robust DPO", "2403.00409", "2509.24159", "method/robust=", "group_worst"):
        assert words in said


@pytest.mark.parametrize(
    ("comment", "says"),
    [
        ("", "does not say what it is"),
        ("# A method of mine.", "does not say what it is"),
        ("# Mine (arXiv 9999.99999): whenever.", "no docstring of prefopt/methods says who wrote it"),
    ],
)
def test_a_method_that_does_not_say_what_it_is_is_named(
    comment: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text(f"{comment}\n_target_: prefopt.methods.pairwise.base.Pairwise\n")
    monkeypatch.setattr(catalogue, "METHODS", tmp_path)
    with pytest.raises(PrefoptError, match=rf"mine.yaml.* {says}"):
        entries()


def test_the_influence_of_a_pair_is_that_of_the_loss() -> None:
    e, z = 0.3, np.linspace(-6, 6, 241)
    p = 1 / (1 + np.exp(-z))
    for name, weight in {"dpo": 1 - p, "cdpo": 1 - e - p, "rdpo": 1 - p + e / (1 - 2 * e)}.items():
        curve = influence(method(f"method={name}", f"noise.assumed={e}", "method.objective.beta=0.05"))
        np.testing.assert_allclose(curve.margin, z, atol=1e-12)
        np.testing.assert_allclose(curve.weight, weight, atol=1e-9)


@pytest.mark.parametrize("name", ["kto", "aot", "dr_dpo", "simpo", "odpo"])
def test_coupled_and_reference_free_losses_have_a_weight_too(name: str) -> None:
    curve = influence(method(f"method={name}"))
    assert np.isfinite(curve.weight).all() and np.ptp(curve.weight) > 0


@pytest.mark.parametrize("name", ["online_dpo", "sft", "bradley_terry", "best_of_n"])
def test_a_loss_that_is_not_of_the_margin_is_refused(name: str) -> None:
    with pytest.raises(PrefoptError, match="has no influence weight"):
        influence(method(f"method={name}"))


def test_plot_draws_and_prints_where(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["plot", "rdpo", "dpo", "sft", "--set", "noise.assumed=0.1"])
    said = capsys.readouterr()
    paths = [Path(line) for line in said.out.split()]
    assert [path.suffix for path in paths] == [".png", ".svg"]
    assert all(path.is_relative_to(home) and path.stat().st_size > 5000 for path in paths)
    assert "sft is left out" in said.err


@pytest.mark.parametrize(("name", "says"), [("rdpoo", "did you mean rdpo"), ("sft", "has no influence weight")])
def test_plot_refuses_what_it_cannot_draw(name: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command.main(["plot", name])
    assert left.value.code == 2
    assert says in capsys.readouterr().err
