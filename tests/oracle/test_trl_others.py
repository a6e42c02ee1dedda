"""Parity with TRL 1.16's KTO, CPO and ORPO trainers on the same per-token log-probs, where the definitions agree.

The preference parts do. The SFT terms of CPO and ORPO differ: TRL's are a mean over the tokens of the batch, ORPO's
over the prompts' too; ours are of each response by itself. Where all responses have one length, and prompts are left
out, they are the same. Under label smoothing TRL's SimPO flips its target margin gamma too, which asks the loser of a
flipped pair to win by -gamma; ours asks whoever wins to win by gamma. Its KTO averages over the 2B responses, ours sums
the two of a pair.
"""

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

pytest.importorskip("pandas")
from trl.experimental.cpo.cpo_trainer import CPOTrainer
from trl.experimental.orpo.orpo_trainer import ORPOTrainer
from trl.trainer.kto_trainer import KTOTrainer

from prefopt.batch import Pairs, chosen_rejected
from prefopt.methods.pairwise.base import Pairwise
from prefopt.methods.pairwise.objectives.alphapo import AlphaPO
from prefopt.methods.pairwise.objectives.cpo import CPO
from prefopt.methods.pairwise.objectives.kto import KTO
from prefopt.methods.pairwise.objectives.orpo import ORPO
from prefopt.methods.pairwise.objectives.simpo import SimPO
from prefopt.methods.pairwise.robust.none import Plain
from prefopt.methods.pairwise.robust.smoothing import Smoothing

ACCELERATOR = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)


def sides(batch: Pairs, policy: Any, *, mean: bool = False) -> tuple[Any, Any]:
    """[B] log-probs of winners and losers, sums or token means."""
    total = policy.logps(batch).sum(-1)
    return chosen_rejected(total / batch.length if mean else total, batch.label)


def cpo(batch: Pairs, policy: Any, loss_type: str, **settings: Any) -> tuple[Tensor, Tensor]:
    trainer: Any = SimpleNamespace(
        alpha=settings.get("alpha", 0.0),
        beta=settings["beta"],
        simpo_gamma=settings.get("gamma", 0.0),
        label_smoothing=settings.get("smoothing", 0.0),
        loss_type=loss_type,
        accelerator=ACCELERATOR,
    )
    losses, *_ = CPOTrainer.cpo_loss(trainer, *sides(batch, policy, mean=loss_type == "simpo"))
    return losses.detach(), torch.autograd.grad(losses.mean(), policy.values)[0]


@pytest.mark.parametrize(("beta", "gamma"), [(2.5, 0.5), (10.0, 3.0)])
def test_simpo(batch: Pairs, policy: Any, ours: Any, agree: Any, beta: float, gamma: float) -> None:
    method = Pairwise(objective=SimPO(beta=beta, gamma=gamma), robust=Plain())
    agree(ours(method, batch), cpo(batch, policy, "simpo", beta=beta, gamma=gamma))


def test_smoothed_simpo_keeps_its_margin_and_trl_flips_it(batch: Pairs, policy: Any, ours: Any, agree: Any) -> None:
    for gamma in (0.0, 0.5):
        method = Pairwise(objective=SimPO(beta=2.5, gamma=gamma), robust=Smoothing(epsilon=0.2))
        theirs = cpo(batch, policy, "simpo", beta=2.5, gamma=gamma, smoothing=0.2)
        if gamma == 0:
            agree(ours(method, batch), theirs)
        else:
            z = 2.5 * torch.sub(*sides(batch, policy, mean=True)).detach()
            more = logsigmoid(gamma - z) - logsigmoid(-gamma - z)
            agree((ours(method, batch)[0],), (theirs[0] + 0.2 * more,))


@pytest.mark.parametrize("alpha", [0.25, -0.5, 1.0])
def test_alphapo(batch: Pairs, policy: Any, ours: Any, agree: Any, alpha: float) -> None:
    method = Pairwise(objective=AlphaPO(beta=0.5, gamma=0.3, alpha=alpha), robust=Plain())
    agree(ours(method, batch), cpo(batch, policy, "simpo", beta=0.5, gamma=0.3, alpha=alpha))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cpo_without_its_anchor(batch: Pairs, policy: Any, ours: Any, agree: Any, smoothing: float) -> None:
    method = Pairwise(objective=CPO(beta=0.1, alpha=0.0), robust=Smoothing(epsilon=smoothing))
    agree(ours(method, batch), cpo(batch, policy, "sigmoid", beta=0.1, smoothing=smoothing))


def same_length(batch: Pairs, length: int) -> Pairs:
    return replace(batch, length=torch.full_like(batch.length, length))


def test_anchors_are_means_over_tokens(batch: Pairs, policy: Any, numbers: Any, ours: Any) -> None:
    """TRL: over all tokens of the batch at once; ours: of each response, then over responses."""
    T = batch.response.shape[-1]
    full = numbers(torch.where(batch.mask, policy.values.data, -1.0))
    for one_length, agrees in ((same_length(batch, T), True), (batch, False)):
        of = full if agrees else policy
        winner, _ = chosen_rejected(of.logps(one_length), batch.label)
        mask, _ = chosen_rejected(one_length.mask, batch.label)
        logits = winner.detach()[mask]
        theirs = -logits.mean()
        for objective in (CPO(alpha=1.0), ORPO()):
            method = Pairwise(objective=objective, robust=Plain())
            whole = ours(method, one_length, of)[0].mean()
            preference = objective.preference(method._pair(one_length)).mean()
            same = torch.allclose(whole - preference, theirs, rtol=1e-5, atol=1e-5)
            assert same == agrees


@pytest.mark.parametrize("lam", [0.1, 1.0])
def test_orpo(batch: Pairs, policy: Any, agree: Any, lam: float) -> None:
    trainer: Any = SimpleNamespace(beta=lam, accelerator=ACCELERATOR)
    gains, *_ = ORPOTrainer.odds_ratio_loss(trainer, *sides(batch, policy, mean=True))
    theirs = (-gains).detach().double(), torch.autograd.grad((-gains).mean(), policy.values)[0]
    method = Pairwise(objective=ORPO(lam=lam), robust=Plain())
    method.policy = policy
    losses = method.objective.preference(method._pair(batch))
    agree((losses.detach(), torch.autograd.grad(losses.mean(), policy.values)[0]), theirs)


@pytest.mark.parametrize("shift", [-30.0, 0.0, 6.0])
@pytest.mark.parametrize(("desirable", "undesirable"), [(1.0, 1.0), (1.0, 0.5)])
def test_kto(
    batch: Pairs, policy: Any, numbers: Any, agree: Any, shift: float, desirable: float, undesirable: float
) -> None:
    """With the log-ratios of mismatched responses given; their mean is below 0, and above it."""
    draw = torch.Generator().manual_seed(3)
    mismatched = torch.randn(len(batch), 2, generator=draw, dtype=torch.float64) + shift
    assert batch.reference is not None
    w, l = sides(batch, policy)  # noqa: E741
    ref_w, ref_l = chosen_rejected(batch.reference.sum(-1), batch.label)
    count = 2 * len(batch)
    zeros = torch.zeros(count, 1, dtype=torch.float64)
    trainer: Any = SimpleNamespace(
        model=nn.Identity(),
        accelerator=ACCELERATOR,
        aux_loss_enabled=False,
        calculate_KL=True,
        precompute_ref_logps=True,
        loss_type="kto",
        beta=0.1,
        desirable_weight=desirable,
        undesirable_weight=undesirable,
        _compute_kl_logps=lambda model, inputs: mismatched.flatten(),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )

    def model(**inputs: Any) -> SimpleNamespace:
        return SimpleNamespace(
            log_probs=torch.cat([w, l])[:, None], entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
        )

    inputs = {
        "input_ids": torch.ones(count, 2, dtype=torch.long),
        "attention_mask": torch.ones(count, 2, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 1]]).expand(count, 2),
        "label": torch.arange(count) < len(batch),
        "ref_logps": torch.cat([ref_w, ref_l]),
        "ref_KL_logps": torch.zeros(count, dtype=torch.float64),
    }
    loss = KTOTrainer._compute_loss(trainer, model, inputs, return_outputs=False)
    theirs = 2 * loss.detach(), 2 * torch.autograd.grad(loss, policy.values, retain_graph=True)[0]

    objective = KTO(beta=0.1, desirable=desirable, undesirable=undesirable)
    method = Pairwise(objective=objective, robust=Plain())
    method.policy = policy
    plain = Pairwise(objective=SimPO(), robust=Plain())
    plain.policy = policy
    pair = replace(plain._pair(batch), mismatched=mismatched)
    reference = chosen_rejected(batch.reference, batch.label)
    pair = replace(pair, w=replace(pair.w, reference=reference[0]), l=replace(pair.l, reference=reference[1]))
    losses = objective.preference(pair).mean()
    agree((losses.detach(), torch.autograd.grad(losses, policy.values)[0]), theirs)
