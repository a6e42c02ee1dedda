"""The SparsePO claim at small scale, and that it can fail."""

from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from prefopt.claims.claim import Experiment, read
from prefopt.claims.statistics import Cell
from prefopt.methods.pairwise import masks
from prefopt.reproduce import CLAIMS, run_all

SMALL = [
    "dataset.pairs=2500",
    "dataset.demonstrations=1500",
    "rounds=2",
    "dataset.test_pairs=100",
    "evaluation.prompts=20",
]


def triggers() -> Experiment:
    (experiment,) = read(CLAIMS / "sparsepo.yaml").experiments
    return experiment


def finds_the_tokens() -> bool:
    """Whether the common mask does, in one run."""
    experiment = triggers()
    arms = {"common": [*experiment.arms["common"], "method.mask.lr=4e-3"]}
    (test,) = (test for test in experiment.tests if test.says.startswith("AUROC of the common mask"))
    (cell,) = run_all("sparsepo", replace(experiment, base=[*experiment.base, *SMALL], arms=arms, seeds=1), jobs=1)
    return test.holds(test.statistic([cell]))


def test_a_learned_mask_finds_the_tokens_that_bear_reward_and_a_frozen_one_does_not(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert finds_the_tokens()
    forward = masks.Learned.forward

    def frozen(self: masks.Learned, *given: object) -> tuple[Tensor, Tensor]:
        m_u, m_d = forward(self, *given)  # type: ignore[arg-type]
        return m_u.detach(), m_d.detach()

    monkeypatch.setattr(masks.Learned, "forward", frozen)
    monkeypatch.setenv("PREFOPT_HOME", str(home.with_name("frozen")))
    (home.with_name("frozen")).mkdir()
    for stage in home.glob("sft-*"):
        (home.with_name("frozen") / stage.name).symlink_to(stage)
    assert not finds_the_tokens()


FIGURES = {  # AUROC, zeros, KL
    "common": (0.99, 0.02, 1.6),
    "independent": (0.97, 0.0, 1.7),
    "lam .001": (0.98, 0.05, 1.8),
    "lam .01": (0.9, 0.6, 2.9),
    "lam .1": (0.6, 0.9, 3.0),
}


def failing(**other: tuple[float, float, float]) -> set[str]:
    """The tests that do not hold where some arms have other figures than FIGURES."""
    names = ("tokens/auroc", "tokens/zeros", "gold/kl")
    cells = [
        Cell(arm, seed, {}, dict(zip(names, other.get(arm, values), strict=True)))
        for arm, values in FIGURES.items()
        for seed in range(3)
    ]
    return {test.says for test in triggers().tests if test.gated and not test.holds(test.statistic(cells))}


def test_sparsity_and_kl_have_to_grow_in_every_seed() -> None:
    cells = [
        Cell(arm, seed, {}, {"tokens/zeros": zeros, "gold/kl": 3.0 if arm == "lam .01" else 1.0})
        for arm, (_, zeros, _) in FIGURES.items()
        for seed in range(3)
    ]
    asked = [test for test in triggers().tests if test.gated and " over " in test.says]
    bent = [
        replace(cell, figures={"tokens/zeros": 0.0, "gold/kl": 0.9})
        if (cell.arm, cell.seed) in {("lam .01", 1), ("lam .001", 2), ("lam .1", 0)}
        else replace(cell, figures=cell.figures | {"tokens/zeros": 0.01})
        if (cell.arm, cell.seed) == ("common", 2)
        else cell
        for cell in cells
    ]
    assert len(asked) == 4
    assert all(test.holds(test.statistic(cells)) for test in asked)
    assert not any(test.holds(test.statistic(bent)) for test in asked)


def test_every_criterion_can_fail() -> None:
    assert failing() == set()
    failed = {
        says
        for other in (
            {"common": (0.5, 0.0, 3.5), "independent": (0.5, 0.0, 1.0)},
            {"lam .01": (0.5, 0.01, 1.0), "lam .1": (0.5, 0.0, 1.0)},
            {"common": (0.99, 0.5, 1.6)},
        )
        for says in failing(**other)
    }
    assert failed == {test.says for test in triggers().tests if test.gated}
