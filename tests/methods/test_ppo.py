"""The exact checks of PPO (arXiv 1707.06347, 1909.08593) for what is built."""

import pytest
import torch
from torch import Tensor

from prefopt.methods.online.returns import adaptive, gae, kl_rewards, whitened


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


ALL = torch.ones(1, 3, dtype=torch.bool)


def test_1_generalised_advantages_and_returns() -> None:
    advantage, returns = gae(row(0, 0, 1), row(0.5, 0.4, 0.3), ALL)
    assert advantage[0].tolist() == pytest.approx([0.43675, 0.565, 0.7], abs=1e-12)
    assert returns[0].tolist() == pytest.approx([0.93675, 0.965, 1.0], abs=1e-12)
    advantage, _ = gae(row(0, 0, 1), row(0.5, 0.4, 0.3), ALL, lam=1.0)
    assert advantage[0].tolist() == pytest.approx([0.5, 0.6, 0.7], abs=1e-12)


def test_2_whitening_with_and_without_the_mean() -> None:
    advantage = row(0.43675, 0.565, 0.7)
    assert whitened(advantage, ALL)[0].tolist() == pytest.approx([-1.214143, -0.020934, 1.235077], abs=2e-6)
    kept = whitened(advantage, ALL, shift_mean=False)
    assert kept[0].tolist() == pytest.approx([-0.646893, 0.546316, 1.802327], abs=2e-6)


def test_3_the_score_is_added_to_the_last_token() -> None:
    reward = kl_rewards(row(-1, -2, -0.5), row(-1.2, -1.5, -0.5), torch.tensor([0.8]), ALL, 0.05)
    assert reward[0].tolist() == pytest.approx([-0.01, 0.025, 0.8], abs=1e-7)


@pytest.mark.parametrize(("kl", "beta"), [(3, 0.149808), (6, 0.15), (12, 0.150192)])
def test_4_the_kl_weight_follows_the_target(kl: float, beta: float) -> None:
    assert adaptive(0.15, kl, target=6, episodes=64, horizon=10000) == pytest.approx(beta, abs=1e-9)


def test_6_the_kl_rewards_of_a_response_add_up_to_its_log_ratio() -> None:
    logps, reference = row(-1, -2, -0.5), row(-1.2, -1.5, -0.1)
    reward = kl_rewards(logps, reference, torch.zeros(1), ALL, 0.3)
    torch.testing.assert_close(reward.sum(-1), -0.3 * (logps - reference).sum(-1))
    assert not kl_rewards(logps, logps, torch.zeros(1), ALL, 0.3).any()


def test_9_padding_changes_no_advantage_return_or_whitening() -> None:
    reward, value, pad = row(0, 0, 1), row(0.5, 0.4, 0.3), row(7, 7)
    longer = torch.cat([ALL, torch.zeros(1, 2, dtype=torch.bool)], -1)
    plain = gae(reward, value, ALL)
    padded = gae(torch.cat([reward, pad], -1), torch.cat([value, pad], -1), longer)
    for short, long in zip(plain, padded, strict=True):
        assert torch.equal(short, long[:, :3])
    assert torch.equal(whitened(plain[0], ALL), whitened(padded[0], longer)[:, :3])
