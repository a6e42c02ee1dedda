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
from prefopt.models.ensemble import Ensemble, Shared, members, opened
from prefopt.models.exact import ExactModel, Table
from prefopt.models.scorer import mean, spread, uncertainty_weighted, worst_case
from prefopt.models.text import Tiny
from prefopt.models.tokenizer import train_tokenizer

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


def test_heads_on_one_backbone_are_standardised_each_by_itself(bandit: Data, samples: list[Groups]) -> None:
    """As separate members of the same numbers are."""
    heads = model.reward(bandit, None, None, Shared(3))
    heads.embedder.f.values.data.normal_(2.0, 3.0, generator=torch.Generator().manual_seed(0))
    apart = []
    for k in range(3):
        alone: Any = model.reward(bandit, None, None)
        alone.f.values.data.copy_(heads.embedder.f.values[..., k])
        apart.append(alone)
    one, many = (each.standardised(samples, worst_case) for each in (heads, Ensemble(apart)))
    torch.testing.assert_close(one.score(samples[0]), many.score(samples[0]))
    assert [member.score(samples[0]).tolist() for member in members(one)] == one.each(samples[0]).tolist()


def test_heads_on_one_backbone_of_text_open_again(tmp_path: Path) -> None:
    tiny = Tiny(vocabulary=300, hidden_size=16, layers=1, heads=2)
    tokenizer = train_tokenizer(["good film", "bad film"] * 8, 300)
    data: Any = Data(train=None, test=None, max_prompt_length=8, max_response_length=8)  # type: ignore[arg-type]
    heads: Any = tiny.reward(data, tokenizer, None, Shared(2))
    rows = torch.tensor([[[5, 6, 2], [7, 8, 2]]])
    length = torch.full((1, 2), 3)
    groups = Groups(
        index=torch.arange(1),
        prompt=torch.ones(1, 1, dtype=torch.long),
        prompt_length=torch.ones(1, dtype=torch.long),
        response=rows,
        length=length,
        mean_length=length.float().mean(),
    )
    heads.export(tmp_path)
    again = opened(tmp_path, partial(tiny.reward, data, tokenizer))
    assert torch.equal(again.each(groups), heads.each(groups))
    assert not torch.equal(again.each(groups)[0], again.each(groups)[1])


def test_a_standardised_ensemble_of_one_has_the_log_odds_of_its_member(
    samples: list[Groups], ensemble: Ensemble
) -> None:
    alone = Ensemble([ensemble.members[2]])
    judge = alone.standardised(samples, mean)
    torch.testing.assert_close(judge.table(samples[0]), alone.table(samples[0]))
    assert not torch.allclose(judge.score(samples[0]), alone.score(samples[0]))


def test_a_constant_with_rounding_is_a_constant() -> None:
    with pytest.raises(PrefoptError, match="the same reward"):
        spread(torch.tensor([0.7, 0.7000001, 0.7]))


def test_disagreement_is_not_rewarded() -> None:
    with pytest.raises(PrefoptError, match=r"method.aggregate.lam=-0.5"):
        uncertainty_weighted(torch.zeros(2, 3), lam=-0.5)
