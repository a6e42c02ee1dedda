"""The exact checks of ranking accuracy (arXiv 2405.19534) for what is built."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from prefopt.evaluation.pairs import held_out, idealised, loss_needed, ranking


def sides(S: ArrayLike, reference: ArrayLike | None = None, length: ArrayLike | None = None) -> dict[str, np.ndarray]:
    """What is measured of pairs, [N, 2], winner first."""
    found = {"S": np.array(S, float), "length": np.array(np.ones_like(S) if length is None else length, float)}
    return found if reference is None else found | {"reference": np.array(reference, float)}


@pytest.mark.parametrize(
    ("beta", "c", "loss"),
    [(0.1, 5, 0.474077), (0.1, 30, 0.048587), (0.1, -5, 0.974077), (0.1, 0, 0.693147), (0.5, 2, 0.313262)],
)
def test_1_the_loss_below_which_a_pair_is_ranked_right(beta: float, c: float, loss: float) -> None:
    assert loss_needed(np.array([c]), beta)[0] == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize(
    ("alpha", "gap", "beta", "ratio"),
    [
        (0.75, -8, 0.1, 2.986123),
        (0.75, -12, 0.1, -1.013877),
        (0.75, -2, 1.0, -0.901388),
        (0.6, -4, 0.1, 0.054651),
        (0.6, -4.1, 0.1, -0.045349),
        (1.0, -60, 0.1, 9.067548),
    ],
)
def test_2_the_perfectly_fitted_policy(alpha: float, gap: float, beta: float, ratio: float) -> None:
    """Its log-ratio crosses zero where the reference's is `ratio` lower than `gap`."""

    def right(reference_gap: float) -> bool:
        return bool(idealised(np.array([[reference_gap, 0.0]]), alpha=alpha, beta=beta)[0])

    assert right(gap) == (ratio > 0)
    assert (right(gap - ratio - 2e-6), right(gap - ratio + 2e-6)) == (False, True)


@given(gap=st.floats(-100, 100).filter(lambda gap: abs(gap) > 1e-3), alpha=st.floats(0.501, 1))
def test_3_limits_in_beta(gap: float, alpha: float) -> None:
    reference = np.array([[gap, 0.0]])
    assert idealised(reference, alpha=alpha, beta=1e-9)[0]
    assert not idealised(reference, alpha=1 - alpha, beta=1e-9)[0]
    assert idealised(reference, alpha=alpha, beta=1e9)[0] == (gap > 0)


def test_4_a_pair_is_ranked_right_where_its_loss_is_below_the_one_needed() -> None:
    draw = np.random.default_rng(0)
    S, reference = draw.normal(-50, 20, (2, 10_000, 2))
    for beta in (0.01, 0.1, 1.0):
        z = beta * (S[:, 0] - S[:, 1] - reference[:, 0] + reference[:, 1])
        loss = np.logaddexp(0, -z)
        below = loss <= loss_needed(reference[:, 1] - reference[:, 0], beta) * (1 + 1e-12)
        assert np.array_equal(below, S[:, 0] >= S[:, 1])


def test_5_a_policy_that_is_its_reference() -> None:
    draw = np.random.default_rng(1)
    S = draw.normal(-50, 20, (500, 2))
    values = sides(S, reference=S, length=np.full((500, 2), 7)) | {"reward": np.zeros((500, 2))}
    figures = held_out(values, beta=0.1, rater_share=0.75)
    assert figures["eval/rewards/accuracies"] == 0
    assert figures["rank/accuracy"] == np.mean(S[:, 0] >= S[:, 1])
    assert figures["rank/flip_rate"] == 0


def test_7_long_responses_are_likelier_by_the_token() -> None:
    figures = ranking(sides([[-20, -15]], length=[[10, 5]]), beta=0.1, rater_share=0.75)
    assert (figures["rank/accuracy"], figures["rank/accuracy_normalised"]) == (0, 1)


def test_8_zero_loss_of_ipo_may_rank_wrong() -> None:
    """The margin wanted is 5; a reference that is wrong by 6 stays wrong by 1."""
    tau, reference = 0.1, np.array([[-6.0, 0.0]])
    S = reference + np.array([[1 / (2 * tau), 0.0]])
    assert S[0, 0] - S[0, 1] == pytest.approx(-1)
    assert ranking(sides(S, reference=reference), beta=tau, rater_share=0.75)["rank/accuracy"] == 0


def test_ties_are_right_for_likelihoods_and_wrong_for_rewards() -> None:
    values = sides([[-3, -3]], reference=[[-3, -3]]) | {"reward": np.zeros((1, 2))}
    figures = held_out(values, beta=0.1, rater_share=0.75)
    assert (figures["rank/accuracy"], figures["eval/rewards/accuracies"]) == (1, 0)


def test_the_gap_and_the_flip_rate_by_hand() -> None:
    """Four pairs: right and stays, right and turns, wrong and is mended, wrong and stays."""
    values = sides([[-1, -2], [-3, -2], [-1, -2], [-3, -2]], reference=[[-1, -2], [-1, -2], [-30, -2], [-30, -2]])
    figures = ranking(values, beta=0.1, rater_share=0.75)
    assert figures["rank/accuracy"] == 0.5
    assert figures["rank/idealised"] == 0.5
    assert figures["rank/alignment_gap"] == 0
    assert figures["rank/flip_rate"] == 0.5
