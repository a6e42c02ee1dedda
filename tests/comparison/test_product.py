"""Objectives by robustifiers: names of products, and their table."""

from itertools import product

import pytest

from prefopt.comparison.analysis import Comparison
from prefopt.comparison.design import Design
from prefopt.comparison.measures import measure
from prefopt.comparison.product import of_product
from prefopt.config import CONF, composed, product_name

from .conftest import cell_of


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["method=rdpo"], "rdpo"),
        (["method=rdpo", "method/objective=ipo"], "ipo-unbiased"),
        (["method/robust=none"], "dpo"),
        (["method=ipo", "method/objective=dpo", "method/robust=smoothing"], "cdpo"),
        (["method=online_dpo"], "online_dpo"),
        (["method=online_dpo", "method/objective=ipo"], "online_dpo-ipo-none"),
        (["method=sft"], "sft"),
        (["method=srpo", "method/robust=em"], "srpo-em"),
    ],
)
def test_a_product_is_called_by_its_name_or_by_its_parts(overrides: list[str], name: str) -> None:
    assert composed(overrides).choices.method == name


def test_the_same_product_is_the_same_run_however_it_was_asked_for() -> None:
    from prefopt.run import Parts

    asked = (["method=slic"], ["method=rdpo", "method/objective=slic", "method/robust=none"])
    first, second = (Parts(composed(overrides)).fingerprint() for overrides in asked)
    assert first == second


def test_no_two_methods_are_the_same_product() -> None:
    for path in (CONF / "method").glob("*.yaml"):
        choices = composed([f"method={path.stem}"]).choices
        parts = {part: choices[part] for part in ("objective", "robust") if part in choices}
        assert not parts or product_name(path.stem, parts) == path.stem
        if parts:
            assert composed([f"method={path.stem}", *(f"method/{k}={v}" for k, v in parts.items())]).choices == choices


def test_the_table_has_objectives_in_rows_and_robustifiers_in_columns() -> None:
    cells = []
    for (row, objective), (column, robust) in product(enumerate(("dpo", "ipo")), enumerate(("none", "tilt"))):
        parts = {"choices__objective": objective, "choices__robust": robust}
        for seed in (0, 1):
            name = f"{objective}-{robust}-{seed}"
            cell = cell_of(f"{objective}-{robust}", 0.3, seed, name=name, **parts)
            cell.figures["gold/reward"] = 10 * row + column + seed  # type: ignore[index]
            cells.append(cell)
    design = Design.of(cells, {"method/objective", "method/robust"}, [])
    (table,) = of_product(Comparison(design, figure="gold/reward", baseline=None), measure("gold/reward"))
    assert table.header == ("objective", "none", "tilt")
    assert [[entry.text.split(" ")[0] for entry in row] for row in table.rows] == [
        ["dpo", "0.500", "1.500"],
        ["ipo", "10.500", "11.500"],
    ]
    assert [entry.tone for row in table.rows for entry in row] == ["", "", "", "", "", "best"]
    alike = [cell for cell in cells if cell.config["choices"]["robust"] == "none"]
    assert (
        list(of_product(Comparison(Design.of(alike, set(), []), figure=None, baseline=None), measure("regret"))) == []
    )
