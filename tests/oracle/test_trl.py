"""Parity with TRL 1.16 on the same per-token log-probs, where the definitions agree.

They do for DPO (`sigmoid`), robust DPO (`robust`), IPO with token means (`ipo`) and SFT (`sft`). They do not for SLiC:
TRL's `hinge` is SLiC-DPO, max(0, 1 - z) on log-ratios to the reference without a regulariser, ours is SLiC-HF on plain
log-probs with one. TRL has no cDPO: its `sigmoid` ignores `label_smoothing`, as the last test records.
"""

from collections import defaultdict
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trl.trainer.dpo_trainer import DPOTrainer

from prefopt.batch import Demonstrations, Groups, Pairs, chosen_rejected
from prefopt.methods.base import Method
from prefopt.methods.demonstrations.sft import SFT
from prefopt.methods.pairwise.base import Pairwise
from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.objectives.ipo import IPO
from prefopt.methods.pairwise.robust.none import Plain
from prefopt.methods.pairwise.robust.smoothing import Smoothing
from prefopt.methods.pairwise.robust.unbiased import Unbiased

B, P, T = 16, 3, 7


class Numbers(nn.Module):
    """A policy whose log-probs [B, n, T] are given."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)

    def logps(self, groups: Groups) -> Tensor:
        return self.values[groups.index]


@pytest.fixture(scope="module")
def batch() -> Pairs:
    draw = torch.Generator().manual_seed(0)
    length = torch.randint(1, T + 1, (B, 2), generator=draw)
    length[0] = T
    reference = -4 * torch.rand(B, 2, T, generator=draw)
    return Pairs(
        index=torch.arange(B),
        prompt=torch.ones(B, P, dtype=torch.long),
        prompt_length=torch.full((B,), P),
        response=torch.ones(B, 2, T, dtype=torch.long),
        length=length,
        mean_length=length.float().mean(),
        reference=reference * (torch.arange(T) < length[..., None]),
        label=torch.randint(0, 2, (B,), generator=draw),
    )


@pytest.fixture
def policy(batch: Pairs) -> Numbers:
    return Numbers(-4 * torch.rand(B, 2, T, generator=torch.Generator().manual_seed(1)) * batch.mask)


def ours(method: Method, batch: Groups, policy: Numbers) -> tuple[Tensor, Tensor]:
    """Our losses [B] and the gradient of their mean in the log-probs."""
    optimizer = torch.optim.SGD
    cast = {"policy": policy, "reference": None}
    method.prepare(cast, optimizer=optimizer, schedule=lambda _: 1.0, micro_batch_size=None, clip=None, seed=0)
    losses, _ = method.loss(batch)
    return losses.detach(), torch.autograd.grad(losses.mean(), policy.values)[0]


def theirs(loss_type: str, batch: Pairs, policy: Numbers, beta: float, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """The same from TRL's trainer, of which only its loss runs: a pair at a time, and all at once for the gradient."""
    one_by_one = [
        trl_loss(loss_type, batch.pick(slice(i, i + 1)), policy, beta, smoothing)[0] for i in range(len(batch))
    ]
    _, gradient = trl_loss(loss_type, batch, policy, beta, smoothing)
    return torch.stack(one_by_one), gradient


def trl_loss(loss_type: str, batch: Pairs, policy: Numbers, beta: float, smoothing: float) -> tuple[Tensor, Tensor]:
    side_by_side = torch.cat(chosen_rejected(policy.logps(batch), batch.label))
    mask = torch.cat(chosen_rejected(batch.mask, batch.label))
    rows = torch.nn.functional.pad(mask.long(), (P, 0))
    # log_probs[t] is that of token t + 1 of the row
    log_probs = torch.nn.functional.pad(side_by_side, (P - 1, 0))
    zeros = torch.zeros_like(log_probs)

    def model(**inputs: Any) -> SimpleNamespace:
        return SimpleNamespace(log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())

    assert batch.reference is not None
    ref_w, ref_l = chosen_rejected(batch.reference.sum(-1), batch.label)
    trainer: Any = SimpleNamespace(
        model=nn.Identity(),
        accelerator=SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=beta,
        label_smoothing=smoothing,
        use_weighting=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {
        "input_ids": rows,
        "attention_mask": torch.ones_like(rows),
        "completion_mask": rows,
        "ref_chosen_logps": ref_w,
        "ref_rejected_logps": ref_l,
    }
    loss = DPOTrainer._compute_loss(trainer, model, inputs, return_outputs=False)
    return loss.detach(), torch.autograd.grad(loss, policy.values)[0]


def agree(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> None:
    for ours_, theirs_ in zip(a, b, strict=True):
        torch.testing.assert_close(ours_, theirs_, rtol=1e-6, atol=1e-6)


def test_this_is_the_version_that_was_read() -> None:
    assert version("trl").startswith("1.16.")


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.5])
def test_dpo(batch: Pairs, policy: Numbers, beta: float) -> None:
    agree(
        ours(Pairwise(objective=DPO(beta=beta), robust=Plain()), batch, policy), theirs("sigmoid", batch, policy, beta)
    )


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.3, 0.45])
def test_robust_dpo(batch: Pairs, policy: Numbers, beta: float, epsilon: float) -> None:
    method = Pairwise(objective=DPO(beta=beta), robust=Unbiased(epsilon=epsilon))
    agree(ours(method, batch, policy), theirs("robust", batch, policy, beta, epsilon))


@pytest.mark.parametrize("tau", [0.05, 0.1, 0.5])
def test_ipo_with_token_means(batch: Pairs, policy: Numbers, tau: float) -> None:
    agree(ours(Pairwise(objective=IPO(tau=tau), robust=Plain()), batch, policy), theirs("ipo", batch, policy, tau))


def test_sft_is_a_mean_over_the_tokens_of_the_batch(batch: Pairs, policy: Numbers) -> None:
    (length, _), (logps, _) = (
        chosen_rejected(batch.length, batch.label),
        chosen_rejected(policy.values.data, batch.label),
    )
    imitated = Demonstrations(
        index=batch.index,
        prompt=batch.prompt,
        prompt_length=batch.prompt_length,
        response=batch.response[:, :1],
        length=length[:, None],
        mean_length=length.float().mean(),
    )
    losses, _ = ours(SFT(), imitated, Numbers(logps[:, None]))
    theirs_, _ = trl_loss("sft", batch, policy, 0.1, 0.0)
    torch.testing.assert_close(losses.mean(), theirs_, rtol=1e-6, atol=1e-6)


def test_trl_ignores_label_smoothing_in_dpo_and_we_do_not(batch: Pairs, policy: Numbers) -> None:
    """Its baseline called cDPO is DPO; one day this fails, and cDPO can join the parity tests."""
    smoothed = theirs("sigmoid", batch, policy, 0.1, 0.2)
    agree(smoothed, theirs("sigmoid", batch, policy, 0.1, 0.0))
    cdpo = ours(Pairwise(objective=DPO(beta=0.1), robust=Smoothing(epsilon=0.2)), batch, policy)
    assert (cdpo[0] - smoothed[0]).abs().max() > 1e-2
