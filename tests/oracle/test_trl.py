"""Parity with TRL 1.16's DPO trainer on the same per-token log-probs, where the definitions agree: they do for all of
its fifteen losses, for its f-divergences, for WPO's weights and for LD-DPO.

Its `hinge` is our `hinge`, not our `slic`, which is SLiC-HF. Its `bco_pair` is our `bco` before the first step: it
leaves the reward shift out. TRL has no cDPO: its `sigmoid` ignores `label_smoothing`, as the last test records.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trl.trainer.dpo_trainer import DPOTrainer

from prefopt.batch import Demonstrations, Pairs, chosen_rejected
from prefopt.methods.demonstrations.sft import SFT
from prefopt.methods.pairwise.base import Objective, Pairwise
from prefopt.methods.pairwise.objectives.aot import AOT
from prefopt.methods.pairwise.objectives.aot_unpaired import AOTUnpaired
from prefopt.methods.pairwise.objectives.apo_down import APODown
from prefopt.methods.pairwise.objectives.apo_zero import APOZero
from prefopt.methods.pairwise.objectives.bco import BCO
from prefopt.methods.pairwise.objectives.discopop import DiscoPOP
from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.objectives.exo import EXO
from prefopt.methods.pairwise.objectives.f_dpo import FDPO
from prefopt.methods.pairwise.objectives.hinge import Hinge
from prefopt.methods.pairwise.objectives.ipo import IPO
from prefopt.methods.pairwise.objectives.ld_dpo import LDDPO
from prefopt.methods.pairwise.objectives.lndpo import LNDPO
from prefopt.methods.pairwise.objectives.nca import NCA
from prefopt.methods.pairwise.objectives.sppo_hard import SPPOHard
from prefopt.methods.pairwise.objectives.wpo import WPO
from prefopt.methods.pairwise.robust.none import Plain
from prefopt.methods.pairwise.robust.smoothing import Smoothing
from prefopt.methods.pairwise.robust.unbiased import Unbiased


def theirs(batch: Pairs, policy: Any, **settings: Any) -> tuple[Tensor, Tensor]:
    """What TRL makes of it: a pair at a time, and the gradient of all at once."""
    one_by_one = [trl_loss(batch.pick(slice(i, i + 1)), policy, **settings)[0] for i in range(len(batch))]
    return torch.stack(one_by_one), trl_loss(batch, policy, **settings)[1]


def trl_loss(
    batch: Pairs, policy: Any, *, loss_type: str = "sigmoid", beta: float = 0.1, **settings: Any
) -> tuple[Tensor, Tensor]:
    """The loss and its gradient in the log-probs from TRL's trainer, of which only its loss runs."""
    reference_logps = batch.reference
    assert reference_logps is not None
    prompt = batch.prompt.shape[1]
    mask = torch.cat(chosen_rejected(batch.mask, batch.label))
    rows = nn.functional.pad(mask.long(), (prompt, 0))

    def side_by_side(values: Tensor) -> Tensor:
        # position t is that of token t + 1 of the row
        return nn.functional.pad(torch.cat(chosen_rejected(values, batch.label)), (prompt - 1, 0))

    log_probs = side_by_side(policy.logps(batch))
    zeros = torch.zeros_like(log_probs)
    outputs = {"entropy": zeros, "mean_logits": zeros, "is_top1": zeros.bool()}
    outputs["log_sum_sq_probs"] = side_by_side(policy.collisions(batch))

    def model(**inputs: Any) -> SimpleNamespace:
        return SimpleNamespace(log_probs=log_probs, **outputs)

    def reference(**inputs: Any) -> SimpleNamespace:
        return SimpleNamespace(log_probs=side_by_side(reference_logps), **outputs)

    own: Any = nn.Identity()
    own.is_gradient_checkpointing = False
    trainer: Any = SimpleNamespace(
        model=own,
        ref_model=reference,
        accelerator=SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None, discopop_tau=settings.get("tau", 0.05)),
        aux_loss_enabled=False,
        ld_alpha=settings.get("ld_alpha"),
        precompute_ref_logps=False,
        f_divergence_type=settings.get("divergence", "reverse_kl"),
        f_alpha_divergence_coef=settings.get("alpha"),
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=beta,
        label_smoothing=settings.get("smoothing", 0.0),
        use_weighting=settings.get("weighting", False),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {"input_ids": rows, "attention_mask": torch.ones_like(rows), "completion_mask": rows}
    loss = DPOTrainer._compute_loss(trainer, model, inputs, return_outputs=False)
    return loss.detach(), torch.autograd.grad(loss, policy.values)[0]


def test_this_is_the_version_that_was_read() -> None:
    assert version("trl").startswith("1.16.")


BETAS = [0.01, 0.1, 0.5]


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(
    ("loss_type", "objective"),
    [
        ("sigmoid", DPO),
        ("hinge", Hinge),
        ("nca_pair", NCA),
        ("bco_pair", BCO),
        ("sppo_hard", SPPOHard),
        ("apo_zero", APOZero),
        ("apo_down", APODown),
        ("discopop", DiscoPOP),
        ("sigmoid_norm", LNDPO),
    ],
)
def test_losses_of_one_pair(
    batch: Pairs, policy: Any, ours: Any, agree: Any, loss_type: str, objective: Callable[..., Objective], beta: float
) -> None:
    method = Pairwise(objective=objective(beta=beta), robust=Plain())
    agree(ours(method, batch), theirs(batch, policy, loss_type=loss_type, beta=beta))


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.3, 0.45])
def test_robust_dpo(batch: Pairs, policy: Any, ours: Any, agree: Any, beta: float, epsilon: float) -> None:
    method = Pairwise(objective=DPO(beta=beta), robust=Unbiased(epsilon=epsilon))
    agree(ours(method, batch), theirs(batch, policy, loss_type="robust", beta=beta, smoothing=epsilon))


@pytest.mark.parametrize("tau", [0.05, 0.1, 0.5])
def test_ipo_with_token_means(batch: Pairs, policy: Any, ours: Any, agree: Any, tau: float) -> None:
    agree(
        ours(Pairwise(objective=IPO(tau=tau), robust=Plain()), batch),
        theirs(batch, policy, loss_type="ipo", beta=tau),
    )


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 0.4])
def test_exo(batch: Pairs, policy: Any, ours: Any, agree: Any, beta: float, epsilon: float) -> None:
    method = Pairwise(objective=EXO(beta=beta, epsilon=epsilon), robust=Plain())
    agree(ours(method, batch), theirs(batch, policy, loss_type="exo_pair", beta=beta, smoothing=epsilon))


@pytest.mark.parametrize("tau", [0.05, 0.5, 1.0])
def test_discopop_of_other_widths(batch: Pairs, policy: Any, ours: Any, agree: Any, tau: float) -> None:
    method = Pairwise(objective=DiscoPOP(beta=0.1, tau=tau), robust=Plain())
    agree(ours(method, batch), theirs(batch, policy, loss_type="discopop", tau=tau))


@pytest.mark.parametrize("epsilon", [0.0, 0.2])
@pytest.mark.parametrize(("loss_type", "objective"), [("aot", AOT), ("aot_unpaired", AOTUnpaired)])
def test_losses_that_sort_the_batch(
    batch: Pairs,
    policy: Any,
    ours: Any,
    agree: Any,
    loss_type: str,
    objective: Callable[..., Objective],
    epsilon: float,
) -> None:
    losses, gradient = ours(Pairwise(objective=objective(beta=0.3), robust=Smoothing(epsilon=epsilon)), batch)
    agree((losses.mean(), gradient), trl_loss(batch, policy, loss_type=loss_type, beta=0.3, smoothing=epsilon))


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(
    ("divergence", "name"),
    [("reverse_kl", "reverse_kl"), ("forward_kl", "forward_kl"), ("js", "js_divergence")],
)
def test_f_divergences(
    batch: Pairs, policy: Any, ours: Any, agree: Any, divergence: str, name: str, beta: float
) -> None:
    method = Pairwise(objective=FDPO(beta=beta, divergence=divergence), robust=Plain())
    agree(ours(method, batch), theirs(batch, policy, beta=beta, divergence=name))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.3])
def test_alpha_divergences(batch: Pairs, numbers: Any, ours: Any, agree: Any, alpha: float) -> None:
    """TRL computes them in float32: policy and reference are near each other, so that their powers are of size one."""
    assert batch.reference is not None
    reference = batch.reference.float()
    half = replace(batch, reference=reference)
    policy = numbers(reference + torch.randn(reference.shape, generator=torch.Generator().manual_seed(2)) / 5)
    method = Pairwise(objective=FDPO(beta=0.5, divergence="alpha", alpha=alpha), robust=Plain())
    agree(ours(method, half, policy), theirs(half, policy, beta=0.5, divergence="alpha_divergence", alpha=alpha))


@pytest.mark.parametrize("beta", BETAS)
def test_wpo(batch: Pairs, policy: Any, ours: Any, agree: Any, beta: float) -> None:
    agree(
        ours(Pairwise(objective=WPO(beta=beta), robust=Plain()), batch),
        theirs(batch, policy, beta=beta, weighting=True),
    )


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_ld_dpo(batch: Pairs, policy: Any, ours: Any, agree: Any, alpha: float) -> None:
    method = Pairwise(objective=LDDPO(alpha=alpha), robust=Plain())
    agree(ours(method, batch), theirs(batch, policy, ld_alpha=alpha))


def test_sft_is_a_mean_over_the_tokens_of_the_batch(batch: Pairs, policy: Any, numbers: Any, ours: Any) -> None:
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
    losses, _ = ours(SFT(), imitated, numbers(logps[:, None]))
    theirs_, _ = trl_loss(batch, policy, loss_type="sft")
    torch.testing.assert_close(losses.mean(), theirs_, rtol=1e-6, atol=1e-6)


def test_trl_leaves_the_reward_shift_out_of_bco(batch: Pairs, policy: Any, ours: Any, agree: Any) -> None:
    method = Pairwise(objective=BCO(beta=0.5), robust=Plain())
    before = ours(method, batch)
    agree(before, theirs(batch, policy, loss_type="bco_pair", beta=0.5))
    method.objective.learn()
    assert (ours(method, batch)[0] - before[0]).abs().max() > 1e-2


def test_trl_ignores_label_smoothing_in_dpo_and_we_do_not(batch: Pairs, policy: Any, ours: Any, agree: Any) -> None:
    """Its baseline called cDPO is DPO; one day this fails, and cDPO can join the parity tests."""
    smoothed = theirs(batch, policy, smoothing=0.2)
    agree(smoothed, theirs(batch, policy))
    cdpo = ours(Pairwise(objective=DPO(beta=0.1), robust=Smoothing(epsilon=0.2)), batch)
    assert (cdpo[0] - smoothed[0]).abs().max() > 1e-2
