"""A judge of several rankers that picks several responses, and elections in which its bound is measured."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prefopt.batch import Groups
from prefopt.config import composed
from prefopt.datasets.data import Data
from prefopt.datasets.rankings import Rankings, swapped
from prefopt.engine.elections import borda, chamberlin_courant, sntv
from prefopt.errors import PrefoptError
from prefopt.evaluation.elections import elected, expected
from prefopt.methods.selection.subset_selection import SubsetSelection
from prefopt.models.rankers import Rankers
from prefopt.run import run
from prefopt.store import Run


class Fixed(nn.Module):
    """A policy that answers with the same responses, and whose members rank them as they are told, worst 0."""

    def __init__(self, rewards: list[list[float]], length: list[int]) -> None:
        super().__init__()
        self.rewards, self.length = torch.tensor(rewards), torch.tensor([length])

    def sample(self, prompts: Groups, n: int, generator: Any = None) -> Groups:
        B = len(prompts)
        response = torch.arange(n)[None, :, None].expand(B, -1, 4)
        return replace(prompts, response=response, length=self.length.expand(B, -1))

    def each(self, groups: Groups) -> Tensor:
        return self.rewards[:, None].expand(-1, len(groups), -1)


def picked(prepared: Any, bandit: Data, n: int, settings: dict[str, Any], **given: Any) -> list[list[int]]:
    player = Fixed(**given)
    method = prepared(SubsetSelection(samples=len(given["length"]), **settings), policy=player, reward=player)
    answers = method.act(bandit.test.pairs.batch(np.arange(3)), n)
    assert answers.length.tolist() == [[given["length"][i] for i in row] for row in answers.response[..., 0].tolist()]
    picked: list[list[int]] = answers.response[..., 0].tolist()
    return picked


RANKS = [[3.0, 2, 1, 0], [2.0, 3, 0, 1], [3.0, 1, 2, 0]]
"""Of the rankings [0,1,2,3], [1,0,3,2] and [0,2,1,3]."""


@pytest.mark.parametrize(("least", "subset"), [(0.0, [0, 1]), (0.5, [0, 2]), (1.0, [2, 3])])
def test_it_picks_by_the_rankings_of_the_members_and_short_responses_have_their_share(
    prepared: Any, bandit: Data, least: float, subset: list[int]
) -> None:
    settings = {"rule": borda(), "least": least}
    assert picked(prepared, bandit, 2, settings, rewards=RANKS, length=[4, 4, 1, 2]) == [subset] * 3


def test_scores_are_points_a_ranking(prepared: Any, bandit: Data) -> None:
    player = Fixed(RANKS, [1, 1, 1, 1])
    method = prepared(SubsetSelection(rule=borda(), samples=4), policy=player, reward=player)
    drawn = player.sample(bandit.test.pairs.batch(np.arange(2)), 4)
    assert method.score(drawn) == pytest.approx(np.array([[8, 6, 3, 1]] * 2) / 3)


def test_a_share_that_no_subset_has_is_named(prepared: Any, bandit: Data) -> None:
    with pytest.raises(PrefoptError, match="no 3 of 4 items have at least 3 of the 1"):
        picked(prepared, bandit, 3, {"rule": borda(), "least": 1.0}, rewards=RANKS, length=[4, 4, 4, 2])
    with pytest.raises(PrefoptError, match="samples=4 are too few to choose 5"):
        picked(prepared, bandit, 5, {"rule": borda()}, rewards=RANKS, length=[4, 4, 4, 2])


@pytest.mark.parametrize("wrong", [{"least": 1.5}, {"least": -0.1}, {"size": 0}])
def test_what_makes_no_subset_is_named(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(PrefoptError, match=f"method.{name}="):
        SubsetSelection(rule=borda(), **wrong)


# Elections


def world(**settings: Any) -> Any:
    return Rankings(**settings).load().world


def test_without_bias_the_bound_of_the_best_subset_costs_nothing() -> None:
    for bias in ({"shift": 0.0}, {"bias": "swap", "share": 0.0}):
        unbiased = world(rankers=20, items=9, **bias)
        assert (unbiased.rankings == unbiased.honest).all()
        figures = elected(unbiased, rule=chamberlin_courant(), size=3, least=0.0)
        assert figures["rho/unconstrained"] == figures["rho/matched"] == figures["rho/best"] == 1


def test_after_all_swaps_the_group_is_below_everybody_else_and_in_another_order() -> None:
    biased = world(rankers=40, items=10, bias="swap")
    stands_apart = biased.apart[0][biased.rankings[0]]
    assert not stands_apart[:, :5].any() and stands_apart[:, 5:].all()

    def within(rankings: np.ndarray) -> list[list[int]]:
        return [[int(i) for i in ranking if biased.apart[0][i]] for ranking in rankings]

    assert within(biased.rankings[0]) != within(biased.honest[0])


def test_a_swap_exchanges_one_of_the_group_with_a_lower_one_of_the_others() -> None:
    draws, apart = np.random.default_rng(0), np.array([True, False, True, False])
    seen = {
        tuple(swapped(np.arange(4), apart, share=0.34, locality=0.5, recompute=True, draws=draws)) for _ in range(99)
    }
    assert seen == {(1, 0, 2, 3), (3, 1, 2, 0), (0, 1, 3, 2)}


def test_near_swaps_come_more_often_the_smaller_the_locality() -> None:
    draws, apart = np.random.default_rng(0), np.array([True, False, True, False])
    for locality in (0.5, 0.9):
        found = [
            tuple(swapped(np.arange(4), apart, share=0.34, locality=locality, recompute=True, draws=draws))
            for _ in range(4000)
        ]
        far = locality**3 / (2 * locality + locality**3)
        assert np.mean([order == (3, 1, 2, 0) for order in found]) == pytest.approx(far, abs=0.025)


def test_swaps_of_the_ranking_as_it_was_are_a_milder_bias() -> None:
    below = []
    for recompute in (True, False):
        biased = world(rankers=40, items=20, bias="swap", recompute=recompute)
        below.append(biased.apart[0][biased.rankings[0]][:, 10:].mean())
    assert below[0] == 1 > below[1] > 0.5


def test_a_shift_of_utility_costs_the_group_first_places_and_leaves_the_order_within_it() -> None:
    apart = np.array([False, True, False, True])
    for shift, first in ((2.0, 0.059601), (6.0, 0.001236)):
        q = np.where(apart, -shift, 0.0)
        by_first, by_borda = expected(sntv(), q), expected(borda(), q)
        assert by_first is not None and by_borda is not None
        assert by_first[apart] == pytest.approx([first, first], abs=1e-6)
        assert by_borda[1] == by_borda[3], "each beats the other half of the time"
        assert by_borda.sum() == pytest.approx(6)


def test_expected_points_are_those_of_many_rankings() -> None:
    many = world(rankers=40_000, items=6, shift=0.0)
    for rule in (borda(), sntv()):
        mean = rule.satisfaction(many.honest[0])[0] / 40_000
        assert mean == pytest.approx(expected(rule, many.rewards[0].numpy()), abs=0.02)


def test_rho_is_the_share_of_the_best_subset_without_the_bias() -> None:
    biased = world(rankers=200, items=12, shift=6.0)
    figures = elected(biased, rule=borda(), size=4, least=0.5)
    q, apart = biased.rewards[0].numpy(), biased.apart[0]
    points = expected(borda(), q)
    assert points is not None
    top = np.sort(points)[-4:].sum()
    assert figures["rho/unconstrained"] == pytest.approx(np.sort(points[~apart])[-4:].sum() / top, abs=0.02)
    halves = np.sort(points[apart])[-2:].sum() + np.sort(points[~apart])[-2:].sum()
    assert figures["rho/constrained"] == pytest.approx(halves / top, abs=0.02)
    assert 1 >= figures["rho/best"] >= max(figures["rho/constrained"], figures["rho/matched"])


@pytest.mark.parametrize(
    ("chosen", "match"),
    [
        ({"bias": "none"}, "dataset.bias=none"),
        ({"share": 1.2}, "dataset.share=1.2"),
        ({"items": 1}, "dataset.items=1"),
    ],
)
def test_what_makes_no_election_is_named(chosen: dict[str, Any], match: str) -> None:
    with pytest.raises(PrefoptError, match=match):
        Rankings(**chosen)


def test_a_world_that_nobody_ranked_has_no_rankers(bandit: Data) -> None:
    with pytest.raises(PrefoptError, match="nobody has ranked"):
        Rankers().judge(bandit, None)


def selected(*more: str) -> Run:
    judge = "+method.needs.reward={_target_: prefopt.models.rankers.Rankers}"
    common = ("tracking=none", "trainer=cpu", "noise=none", "evaluation.times=1", "evaluation.figures=false")
    return run(composed(["method=subset_selection", "dataset=rankings", "~method.needs.reward", judge, *common, *more]))


def test_a_run_measures_the_bound_in_an_election(home: Path) -> None:
    import json

    figures = json.loads(selected("dataset.rankers=50", "method.least=0.5").results.read_text())["figures"]
    assert {"rho/unconstrained", "rho/constrained", "rho/matched", "rho/best", "smooth/alpha"} <= figures.keys()
    assert figures["rho/unconstrained"] < figures["rho/constrained"]


def test_a_run_with_a_bound_that_no_subset_meets_ends_with_a_clear_error(home: Path) -> None:
    with pytest.raises(PrefoptError, match="no 8 of 10 items have at least 8 of the 5"):
        selected("dataset.items=10", "method.size=8", "method.least=1.0")
