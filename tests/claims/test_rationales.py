"""The claim of rationales on one seed, and that it can fail."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from prefopt.claims.claim import Experiment, read
from prefopt.claims.statistics import Cell
from prefopt.reproduce import CLAIMS, run_all


@pytest.fixture(scope="module", autouse=True)
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One home, so that there is one SFT."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFOPT_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def whole() -> Experiment:
    (experiment,) = read(CLAIMS / "rationales.yaml").experiments
    return experiment


def found(*arms: str) -> list[Cell]:
    experiment = whole()
    small = [*experiment.base, "dataset.demonstrations=4000", "dataset.test_pairs=200", "evaluation.prompts=200"]
    kept = {arm: experiment.arms[arm] for arm in arms}
    return list(run_all("rationales", replace(experiment, base=small, arms=kept, seeds=1), jobs=1))


def test_rationales_help_where_they_are_about_the_pair_and_not_where_they_are_of_others() -> None:
    cells = found("rationales", "shuffled")
    (test,) = [test for test in whole().tests if "over shuffled" in test.says]
    assert test.holds(test.statistic(cells))
    exchanged = {"rationales": "shuffled", "shuffled": "rationales"}
    assert not test.holds(test.statistic([replace(cell, arm=exchanged[cell.arm]) for cell in cells]))


FIGURES = {
    "dpo": (1.5, 25.0),
    "rationales": (2.6, 15.0),
    "shuffled": (1.7, 17.0),
    "dpo, 1000 pairs": (2.8, 9.0),
    "rationales, 1000 pairs": (3.4, 8.0),
}


@pytest.mark.parametrize(
    ("arm", "figures", "fails"),
    [
        ("rationales", FIGURES["rationales"], set()),
        ("rationales", (2.5, 15.0), {0}),
        ("shuffled", (2.7, 17.0), {1}),
        ("dpo", (2.7, 25.0), {2}),
        ("rationales, 1000 pairs", (2.7, 8.0), {3}),
        ("dpo", (1.5, 14.0), {4}),
    ],
)
def test_one_seed_that_goes_another_way_makes_it_fail(arm: str, figures: tuple[float, float], fails: set[int]) -> None:
    gated = [test for test in whole().tests if test.gated]
    cells = [
        Cell(name, seed, {}, dict(zip(("gold/reward", "gold/kl"), figures if bent else usual, strict=True)))
        for name, usual in FIGURES.items()
        for seed in range(3)
        for bent in [(name, seed) == (arm, 2)]
    ]
    assert {i for i, test in enumerate(gated) if not test.holds(test.statistic(cells))} == fails
