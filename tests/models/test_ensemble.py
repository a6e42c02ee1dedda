"""An ensemble judges as its members do together, and opens again as it was."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefopt.datasets.bandit import Bandit
from prefopt.datasets.data import Data
from prefopt.models.ensemble import Ensemble, opened
from prefopt.models.exact import ExactModel, Table
from prefopt.models.scorer import Standardised, mean, moments, uncertainty_weighted, worst_case


@pytest.fixture(scope="module")
def bandit() -> Data:
    return Bandit(pairs=64, test_pairs=64, contexts=6, responses=5, dimension=3, seed=4).load()


@pytest.fixture(scope="module")
def ensemble(bandit: Data) -> Ensemble:
    """Three members of different offset and scale."""
    members, model = [], ExactModel(parameters=Table)
    batch = bandit.test.pairs.batch(np.arange(64))
    for k in range(3):
        reward: Any = model.reward(bandit, None, None)
        reward.f.values.data.normal_(5.0 * k, k + 1.0, generator=torch.Generator().manual_seed(k))
        members.append(Standardised(reward, *moments(reward, [batch])))
    return Ensemble(members, worst_case)


def test_the_worst_case_is_of_members_on_one_scale(bandit: Data, ensemble: Ensemble) -> None:
    batch = bandit.test.pairs.batch(np.arange(64))
    members: Any = ensemble.members
    each = torch.stack([member.score(batch) for member in members])
    assert torch.equal(ensemble.score(batch), each.min(0).values)
    assert len(each.argmin(0).unique()) == 3, "each member is the least convinced of some response"


@pytest.mark.parametrize("aggregate", [mean, worst_case, partial(uncertainty_weighted, lam=0.5)])
def test_it_opens_again_under_any_aggregate(bandit: Data, ensemble: Ensemble, tmp_path: Path, aggregate: Any) -> None:
    ensemble.export(tmp_path)
    again = opened(tmp_path, lambda folder: ExactModel(parameters=Table).reward(bandit, None, folder), aggregate)
    expected = Ensemble(list(ensemble.members), aggregate)  # type: ignore[arg-type]
    assert torch.equal(again.rewards(), expected.rewards())
