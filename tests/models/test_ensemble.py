"""An ensemble judges as its members do together, and opens again as it was."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefopt.batch import Groups
from prefopt.datasets.bandit import Bandit
from prefopt.datasets.data import Data
from prefopt.errors import PrefoptError
from prefopt.models.ensemble import Ensemble, opened
from prefopt.models.exact import ExactModel, Table
from prefopt.models.scorer import mean, uncertainty_weighted, worst_case

model = ExactModel(parameters=Table)


@pytest.fixture(scope="module")
def bandit() -> Data:
    return Bandit(pairs=64, test_pairs=64, contexts=6, responses=5, dimension=3, seed=4).load()


@pytest.fixture(scope="module")
def samples(bandit: Data) -> list[Groups]:
    return [bandit.test.pairs.batch(np.arange(64))]


@pytest.fixture(scope="module")
def ensemble(bandit: Data) -> Ensemble:
    """Three members of different offset and scale."""
    members = []
    for k in range(3):
        reward: Any = model.reward(bandit, None, None)
        reward.f.values.data.normal_(5.0 * k, k + 1.0, generator=torch.Generator().manual_seed(k))
        members.append(reward)
    return Ensemble(members)


def test_the_worst_case_is_of_members_on_one_scale(samples: list[Groups], ensemble: Ensemble) -> None:
    judge = ensemble.standardised(samples, worst_case)
    each = judge.each(samples[0])
    assert torch.equal(judge.score(samples[0]), each.min(0).values)
    assert len(each.argmin(0).unique()) == 3, "each member is the least convinced of some response"
    raw = ensemble.each(samples[0])
    assert (raw.argmin(0) == 0).float().mean() > 0.9, "before, the one with the lowest offset always was"


def test_a_member_that_learned_nothing_cannot_be_put_on_the_scale(bandit: Data, samples: list[Groups]) -> None:
    blank = Ensemble([model.reward(bandit, None, None)])
    with pytest.raises(PrefoptError, match="the same reward"):
        blank.standardised(samples, mean)


@pytest.mark.parametrize("aggregate", [mean, worst_case, partial(uncertainty_weighted, lam=0.5)])
def test_it_opens_again_under_any_aggregate(
    bandit: Data, samples: list[Groups], ensemble: Ensemble, tmp_path: Path, aggregate: Any
) -> None:
    ensemble.export(tmp_path)
    again = opened(tmp_path, partial(model.reward, bandit, None))
    expected = ensemble.standardised(samples, aggregate).score(samples[0])
    assert torch.equal(again.standardised(samples, aggregate).score(samples[0]), expected)


def test_a_single_reward_model_opens_as_itself(
    bandit: Data, samples: list[Groups], ensemble: Ensemble, tmp_path: Path
) -> None:
    alone: Any = ensemble.members[1]
    alone.export(tmp_path)
    again = opened(tmp_path, partial(model.reward, bandit, None))
    assert torch.equal(again.score(samples[0]), alone.score(samples[0]))
