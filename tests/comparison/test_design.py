"""Arms, settings and seeds; and the refusal to average over unequal things."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefopt.comparison.analysis import Comparison
from prefopt.comparison.cells import Cell, Question
from prefopt.comparison.design import Design
from prefopt.comparison.report import report
from prefopt.comparison.writing import long_form
from prefopt.errors import PrefoptError

from .conftest import cell_of, figures_of

QUESTION = Question(None, None, {})


def grid(methods: str = "dpo,rdpo", **changes: Any) -> list[Cell]:
    return [cell_of(m, r, s, **changes) for m in methods.split(",") for r in (0.0, 0.2, 0.4) for s in (0, 1, 2)]


def design(cells: list[Cell], *swept: str, allow: tuple[str, ...] = ()) -> Design:
    return Design.of(cells, set(swept), allow)


def test_what_follows_seed_and_rate_makes_no_difference() -> None:
    found = design(grid("dpo,rdpo,cdpo"))
    assert found.arms == ("cdpo", "dpo", "rdpo") and found.settings == ("",) and found.rates == (0.0, 0.2, 0.4)
    assert found.values("gold/kl", "", "dpo", 0.2) == {
        seed: figures_of("dpo", 0.2, seed)["gold/kl"] for seed in range(3)
    }


@pytest.mark.parametrize(
    ("key", "values", "arms"),
    [
        ("method__objective__beta", (0.1, 0.5), ("dpo (beta 0.1)", "dpo (beta 0.5)")),
        (
            "optimizer",
            ({"_target_": "torch.optim.AdamW"}, {"_target_": "torch.optim.LBFGS"}),
            ("dpo (AdamW)", "dpo (LBFGS)"),
        ),
        ("noise__assumed", (0.2, 0.1), ("dpo (told 0.1)", "dpo (told the rate)")),
    ],
)
def test_an_arm_has_the_shortest_name_that_tells_it_apart(key: str, values: tuple, arms: tuple[str, ...]) -> None:
    cells = [
        cell_of("dpo", 0.2, seed, name=f"{k}-{seed}", **{key: value})
        for k, value in enumerate(values)
        for seed in (0, 1)
    ]
    found = design([*cells, cell_of("rdpo", 0.2, 0), cell_of("rdpo", 0.2, 1)], key.replace("__", "."))
    assert found.arms == (*arms, "rdpo")


def test_what_all_arms_must_share_is_a_setting() -> None:
    other = {"choices__noise": "margin", "noise___target_": "prefopt.noise.margin.Margin"}
    cells = grid() + [cell_of(m, 0.2, s, name=f"margin-{m}-{s}", **other) for m in ("dpo", "rdpo") for s in (0, 1)]
    found = design(cells)
    assert found.settings == ("bandit (flip)", "bandit (margin)") and found.arms == ("dpo", "rdpo")
    said = report(Comparison(found, figure=None, baseline=None), QUESTION, notes=[], drawings=[])
    assert [table.title.rpartition(", ")[-1] for table in said.sections[0].tables] == [
        "bandit (flip)",
        "bandit (margin)",
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [("batch_size", 128), ("method__objective__beta", 0.5), ("noise__assumed", 0.1), ("evaluation__prompts", 10)],
)
def test_unequal_cells_are_refused_by_name_and_averaged_when_that_is_asked(key: str, value: Any) -> None:
    cells = [cell_of("dpo", 0.2, 0), cell_of("dpo", 0.2, 1, name="odd", **{key: value})]
    dotted = key.replace("__", ".")
    with pytest.raises(PrefoptError, match=f"{dotted} is .*{value} in odd") as error:
        design(cells)
    assert f"--allow {dotted}" in error.value.mend
    assert design(cells, allow=(dotted,)).arms == ("dpo",)
    assert len(design(cells, dotted).arms) == 2


def test_rates_are_averaged_over_too_so_they_must_be_equal_as_well() -> None:
    with pytest.raises(PrefoptError, match=r"rounds is 3 in .*, 9 in"):
        design([cell_of("dpo", 0.0, 0), cell_of("dpo", 0.2, 0, rounds=9)])


def test_what_cannot_change_an_outcome_may_differ() -> None:
    odd = cell_of("dpo", 0.2, 1, trainer__checkpoint_every_s=5, evaluation__figures=True, tracking__experiment="other")
    assert design([cell_of("dpo", 0.2, 0), odd]).arms == ("dpo",)


def test_cells_that_used_fewer_examples_are_refused() -> None:
    cells = [cell_of("dpo", 0.2, 0), cell_of("rdpo", 0.2, 0, data={"train/used": 60, "train/dropped": 4})]
    with pytest.raises(PrefoptError, match=r"train/used is 60 in rdpo-bandit-0.2-0, 64 in dpo-bandit-0.2-0"):
        design(cells)
    assert design(cells, allow=("train/used",)).arms == ("dpo", "rdpo")


def test_two_runs_of_one_place_are_refused() -> None:
    with pytest.raises(PrefoptError, match=r"two runs of seed 0.*dpo-bandit-0.2-0 and twin"):
        design([cell_of("dpo", 0.2, 0), cell_of("dpo", 0.2, 0, name="twin")])


def test_two_runs_of_one_place_are_refused_where_they_are_alike_in_all_that_is_allowed() -> None:
    cells = [cell_of("dpo", 0.2, 0), cell_of("dpo", 0.2, 1, batch_size=128), cell_of("dpo", 0.2, 0, name="twin")]
    with pytest.raises(PrefoptError, match=r"two runs of seed 0.*dpo-bandit-0.2-0 and twin"):
        design(cells, allow=("batch_size",))


def test_a_seed_counts_once_where_differences_are_allowed() -> None:
    twin = cell_of("dpo", 0.2, 0, name="twin", batch_size=128, figures={"regret": 3.0})
    found = design([cell_of("dpo", 0.2, 0, figures={"regret": 1.0}), twin], allow=("batch_size",))
    assert found.values("regret", "", "dpo", 0.2) == {0: 2.0}


def test_the_baseline_is_dpo_or_the_first_or_the_one_that_is_wanted() -> None:
    assert design(grid("cdpo,rdpo,dpo")).baseline(None) == "dpo"
    assert design(grid("cdpo,rdpo")).baseline(None) == "cdpo"
    assert design(grid("cdpo,rdpo,dpo")).baseline("rdpo") == "rdpo"
    with pytest.raises(PrefoptError, match="no arm of that name"):
        design(grid()).baseline("ipo")


def test_a_baseline_of_several_arms_must_be_told_apart() -> None:
    cells = [cell_of("dpo", 0.2, 0, name=f"{rounds}", rounds=rounds) for rounds in (3, 9)]
    with pytest.raises(PrefoptError, match="more than one arm"):
        design(cells, "rounds").baseline("dpo")
    assert design(cells, "rounds").baseline("dpo (rounds 9)") == "dpo (rounds 9)"


CELLS = grid("dpo,rdpo,cdpo")


@settings(max_examples=20, deadline=None)
@given(st.permutations(CELLS))
def test_the_order_of_cells_changes_nothing(cells: list[Cell]) -> None:
    known, found = design(CELLS), design(cells)
    assert long_form(found) == long_form(known)
    said, again = (
        report(Comparison(each, figure=None, baseline=None), QUESTION, notes=[], drawings=[]) for each in (known, found)
    )
    assert said == again


@settings(max_examples=20, deadline=None)
@given(shift=st.sampled_from([-2.0, 0.25, 8.0]))
def test_a_shift_of_every_figure_shifts_means_and_areas_and_nothing_else(shift: float) -> None:
    moved = [
        cell_of(c.method, c.rate, c.seed, figures={"gold/win_rate": c.figures["gold/win_rate"] + shift}) for c in CELLS
    ]
    known, found = (Comparison(design(cells), figure="gold/win_rate", baseline=None) for cells in (CELLS, moved))
    for where in known.places("", "gold/win_rate"):
        for arm in known.design.arms:
            one, other = (c.estimate("gold/win_rate", "", arm, where) for c in (known, found))
            assert other.mean == pytest.approx(one.mean + shift) and other.half == pytest.approx(one.half)
    for one_test, other_test in zip(known.tests(), found.tests(), strict=True):
        assert other_test.paired.difference == pytest.approx(one_test.paired.difference, abs=1e-9)
        assert other_test.verdict == one_test.verdict
    assert known.blocks("") == found.blocks("")


def test_lower_is_better_where_it_is() -> None:
    found = Comparison(design(grid("dpo,cdpo,rdpo")), figure="regret", baseline="dpo")
    assert found.best(found.main, "", found.design.arms, 0.4) == {"rdpo"}
    verdicts = {(test.arm, test.where): test.verdict for test in found.tests()}
    assert verdicts["rdpo", 0.4] == "better" and verdicts["cdpo", 0.4] == "worse"
    assert found.blocks("")[0.4][0] == {"rdpo": 1.0, "dpo": 2.0, "cdpo": 3.0}


def test_a_gain_over_the_start_is_paired_with_that_start() -> None:
    found = Comparison(design(grid()), figure="gold/reward", baseline=None)
    expected = {seed: figures_of("dpo", 0.4, seed)["gold/reward"] - 0.01 * seed for seed in range(3)}
    assert found.advantage(found.main, "", "dpo")[0.4] == pytest.approx(expected)


def test_a_question_has_a_title_and_a_folder(home: Path) -> None:
    question = Question.read(["method=dpo,rdpo", "noise.rate=0,0.2"], [])
    assert question.title == "method=dpo,rdpo noise.rate=0,0.2" and question.told_apart == {"method", "noise.rate"}
    assert question.folder == home / "comparisons" / "method=dpo,rdpo_noise.rate=0,0.2"
