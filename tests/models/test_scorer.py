"""Judges: tables from rewards, one scale for all, and one judge of several."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from prefopt.errors import PrefoptError
from prefopt.models.scorer import Scorer, Standardised, mean, moments, uncertainty_weighted, worst_case


class Fixed(Scorer):
    """The same rewards whatever is judged."""

    def __init__(self, rewards: Any) -> None:
        self.given = torch.as_tensor(rewards, dtype=torch.float64)

    def score(self, groups: Any) -> Tensor:
        return self.given


ANY: Any = None


def test_a_table_is_skew_symmetric_and_a_margin_is_its_first_over_its_second() -> None:
    scorer = Fixed([[1.0, 3.0], [0.5, -2.0]])
    table = scorer.table(ANY)
    assert torch.equal(table, -table.mT)
    assert scorer.margin(ANY).tolist() == [-2.0, 2.5]


def test_a_standardised_reward_has_mean_0_and_variance_1_where_it_was_measured() -> None:
    scorer = Fixed([[1.0, 4.0], [7.0, -2.0]])
    r = Standardised(scorer, *moments(scorer, [ANY, ANY])).score(ANY)
    assert float(r.mean()) == pytest.approx(0, abs=1e-15)
    assert float(r.var(correction=0)) == pytest.approx(1)


def test_standardising_undoes_offset_and_scale() -> None:
    r = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scaled = [Standardised(s, *moments(s, [ANY])).score(ANY) for s in (Fixed(r), Fixed(40 * r - 7))]
    torch.testing.assert_close(*scaled)


@pytest.mark.parametrize(
    ("rewards", "says"),
    [([[1.0, math.nan]], "1 of 2 responses"), ([[1.0, -math.inf]], "not finite"), ([[2.0, 2.0]], "the same reward, 2")],
)
def test_rewards_that_are_not_finite_or_all_alike_have_no_scale(rewards: Any, says: str) -> None:
    with pytest.raises(PrefoptError, match=says):
        moments(Fixed(rewards), [ANY])


@pytest.mark.parametrize(
    ("members", "expected"),
    [((1.0, 1.2, 2.6), (1.6, 1.0, 1.346667)), ((1.0, 1.1, 1.2), (1.1, 1.0, 1.096667))],
)
def test_aggregates_are_those_of_the_paper(members: Any, expected: Any) -> None:
    """With the sample variance the third would be 1.22 for the first row."""
    r = torch.tensor(members, dtype=torch.float64)
    found = [float(a) for a in (mean(r), worst_case(r), uncertainty_weighted(r, 0.5))]
    assert found == pytest.approx(expected, abs=5e-7)


def test_the_slope_of_the_uncertainty_weighted_reward_is_the_closed_form() -> None:
    r = torch.tensor([1.0, 1.2, 2.6], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(uncertainty_weighted(r, 0.5), r)
    assert slope.tolist() == pytest.approx([0.533333, 0.466667, 0.0], abs=5e-7)


def test_aggregates_agree_where_they_must() -> None:
    r = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(uncertainty_weighted(r, 0.0), mean(r))
    for aggregate in (mean, worst_case, lambda rewards: uncertainty_weighted(rewards, 0.5)):
        assert torch.equal(aggregate(r[:1]), r[0])
        torch.testing.assert_close(aggregate(r + 3.0), aggregate(r) + 3.0)
        torch.testing.assert_close(aggregate(r[[2, 0, 3, 1]]), aggregate(r))
