"""The exact checks of SparsePO (arXiv 2410.05102) and of TDPO1 (arXiv 2404.11999), its limit with every mask at 1."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prefopt.batch import Groups, Pairs
from prefopt.config import composed
from prefopt.engine import laws
from prefopt.errors import PrefoptError
from prefopt.loop.processes import check_processes
from prefopt.methods.base import Method
from prefopt.methods.pairwise.base import Pairwise
from prefopt.methods.pairwise.masks import Activations, Learned, Mask, Ones
from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.objectives.kto import KTO
from prefopt.methods.pairwise.objectives.simpo import SimPO
from prefopt.methods.pairwise.pair import Pair
from prefopt.methods.pairwise.robust.none import Plain
from prefopt.methods.pairwise.sparsepo import SparsePO
from prefopt.models.causal import AdapterOff, CausalPolicy

LENGTH = torch.tensor([[3, 2]])
D, KL = [[0.2, -0.1, 0.4], [-0.3, 0.1, 0.0]], [[0.05, 0.02, 0.1], [0.04, 0.06, 0.0]]
M_U, M_D = [[1.0, 0.0, 0.5], [0.5, 1.0, 0.0]], [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]


def numbers_of(rows: list[list[float]]) -> Tensor:
    return torch.tensor([rows], dtype=torch.float64)


def sparsepo(mask: Mask | None = None, beta: float = 0.5, **given: float) -> SparsePO:
    return SparsePO(objective=DPO(beta=beta), robust=Plain(), mask=mask or Ones(), **given)


def loss_of(pairs_of: Callable[..., Pairs], method: SparsePO, m_u: Tensor, m_d: Tensor, winner: int = 0) -> Tensor:
    """The loss of one pair with log-ratios D and divergences KL, the winner first."""
    batch = pairs_of(LENGTH, torch.tensor([winner]))
    reference = torch.full((1, 2, 3), -2.0, dtype=torch.float64) * batch.mask
    tokens = {"m_u": m_u, "m_d": m_d, "logps": reference + numbers_of(D), "reference": reference, "kl": numbers_of(KL)}
    method._tokens = lambda batch: tokens  # type: ignore[method-assign]
    return method.loss(batch)[0]


def test_1_the_value(pairs_of: Callable[..., Pairs]) -> None:
    loss = loss_of(pairs_of, sparsepo(), numbers_of(M_U), numbers_of(M_D))
    assert loss.item() == pytest.approx(0.569400, abs=1e-6)


def test_1_swapping_the_label_swaps_the_whole_preference_part(pairs_of: Callable[..., Pairs]) -> None:
    loss = loss_of(pairs_of, sparsepo(), numbers_of(M_U), numbers_of(M_D), winner=1)
    assert loss.item() == pytest.approx(0.569400 + 0.265, abs=1e-6)


@pytest.mark.parametrize(("m_d", "value"), [(1.0, 0.519062), (0.0, 0.533382)])
def test_2_all_ones_is_tdpo_and_no_divergence_is_dpo(pairs_of: Callable[..., Pairs], m_d: float, value: float) -> None:
    ones = torch.ones(1, 2, 3, dtype=torch.float64)
    assert loss_of(pairs_of, sparsepo(), ones, m_d * ones).item() == pytest.approx(value, abs=1e-6)


def test_3_gradients_of_the_masks(pairs_of: Callable[..., Pairs]) -> None:
    m_u, m_d = numbers_of(M_U).requires_grad_(), numbers_of(M_D).requires_grad_()
    loss_of(pairs_of, sparsepo(), m_u, m_d).backward()
    assert m_u.grad is not None and m_d.grad is not None
    assert m_u.grad[0, 0].tolist() == pytest.approx([-0.0434135, 0.0217068, -0.0868270], abs=1e-7)
    assert m_d.grad[0, 0].tolist() == pytest.approx([-0.0108534, -0.0043414, -0.0217068], abs=1e-7)
    assert m_d.grad[0, 1, :2].tolist() == pytest.approx([0.0086827, 0.0130241], abs=1e-7)


def test_norms_are_sums_over_both_responses_and_half_as_dear_for_a_common_mask(
    pairs_of: Callable[..., Pairs],
) -> None:
    m_u, m_d = numbers_of(M_U), numbers_of(M_D)
    plain = loss_of(pairs_of, sparsepo(Learned(independent=True)), m_u, m_d)
    priced = loss_of(pairs_of, sparsepo(Learned(independent=True), lam_u=0.1, lam_d=0.01), m_u, m_d)
    assert (priced - plain).item() == pytest.approx(0.1 * 3 + 0.01 * 3)
    common = [loss_of(pairs_of, sparsepo(Learned(), lam_u=lam, lam_d=lam), m_u, m_u) for lam in (0.1, 0.0)]
    assert (common[0] - common[1]).item() == pytest.approx(0.1 * 3)


def test_7_masks_and_beta_scale_against_each_other(pairs_of: Callable[..., Pairs]) -> None:
    m_u, m_d = numbers_of(M_U), numbers_of(M_D)
    one, other = loss_of(pairs_of, sparsepo(), m_u, m_d), loss_of(pairs_of, sparsepo(beta=0.1), 5 * m_u, 5 * m_d)
    torch.testing.assert_close(one, other)


class Sites:
    """A reference with given activations [sites, M]."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def activations(self, groups: Groups) -> Tensor:
        return self.values


@pytest.mark.parametrize(
    ("sites", "expected"),
    [
        ([[1.0, 2, 4, 7, 7]], [0, 1 / 3, 1, 0, 0]),
        ([[5.0, 5, 5, 3, 1]], [0, 0, 0, 1, 0]),
        ([[1.0, 2, 4, 7, 7], [5.0, 5, 5, 3, 1]], [0, 1 / 6, 0.5, 0.5, 0]),
    ],
)
def test_4_activations_run_from_0_to_1_over_each_response(
    pairs_of: Callable[..., Pairs], sites: list[list[float]], expected: list[float]
) -> None:
    batch = pairs_of(LENGTH, torch.tensor([0]))
    m_u, m_d = Activations()(Sites(torch.tensor(sites)), batch, torch.zeros(1, 5, 1))
    assert m_u is m_d
    assert m_u.tolist() == pytest.approx(expected, abs=1e-6)


# On a small transformer


def tiny(seed: int = 0) -> CausalPolicy:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=23, initializer_range=0.6, **shape))
    return CausalPolicy(model.double(), None, max_response_length=8)


@pytest.fixture
def batch() -> Pairs:
    draw = torch.Generator().manual_seed(5)
    length = torch.tensor([[6, 3], [1, 5], [4, 4]])
    mask = torch.arange(6) < length[..., None]
    return Pairs(
        index=torch.arange(3),
        prompt=torch.randint(1, 23, (3, 4), generator=draw),
        prompt_length=torch.tensor([4, 2, 3]),
        response=torch.randint(1, 23, (3, 2, 6), generator=draw) * mask,
        length=length,
        mean_length=length.double().mean(),
        label=torch.tensor([0, 1, 1]),
    )


def with_roles(prepared: Callable[..., Any], method: Method, reference: Any = None, policy: Any = None) -> Any:
    return prepared(method, policy=policy or tiny(), reference=reference or tiny(1))


def test_log_probs_and_divergences_are_those_of_the_whole_laws(batch: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks or not, with the same gradients, and none for the reference."""
    policy, reference, mask = tiny(), tiny(1), batch.mask
    whole = [model.law(model.states(batch)[-1]).log_softmax(-1) for model in (policy, reference)]
    tokens = batch.response[mask]
    expected = [law.gather(-1, tokens[:, None])[:, 0] for law in whole]
    expected.append((whole[1].exp() * (whole[1] - whole[0])).sum(-1))
    torch.testing.assert_close(expected[0].float(), policy.logps(batch)[mask].float())
    (expected[0] + expected[2]).sum().backward()
    gradients = [p.grad.clone() for p in policy.parameters() if p.grad is not None]
    for chunk in (4, 2048):
        policy.zero_grad()
        reference.zero_grad()
        monkeypatch.setattr(laws, "CHUNK", chunk)
        states = policy.states(batch, last=True)[-1], reference.states(batch)[-1].detach()
        found = laws.compared(states[0], policy.law, states[1], reference.law, tokens)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs.detach())
        assert (found[2] > 0).all()
        (found[0] + found[2]).sum().backward()
        torch.testing.assert_close([p.grad for p in policy.parameters() if p.grad is not None], gradients)
        assert all(p.grad is None for p in reference.parameters())


def test_5_a_mask_does_not_see_the_token_that_it_weighs(batch: Pairs, prepared: Callable[..., Any]) -> None:
    method = with_roles(prepared, sparsepo(Learned()))
    response = batch.response.clone()
    response[0, 0, 3:] = (response[0, 0, 3:] + 7) % 22 + 1
    before, after = method.weigh(batch)[0, 0], method.weigh(replace(batch, response=response))[0, 0]
    torch.testing.assert_close(after[:4], before[:4])
    assert not torch.allclose(after[4:], before[4:])


def test_5_padding_has_no_weight(batch: Pairs, prepared: Callable[..., Any]) -> None:
    for mask in (Learned(), Learned(independent=True), Activations(), Ones()):
        tokens = with_roles(prepared, sparsepo(mask))._tokens(batch)
        for values in tokens.values():
            assert values.shape == batch.mask.shape
            assert (values[~batch.mask] == 0).all()


@pytest.mark.parametrize("mask", [Learned(), Learned(independent=True), Activations(), Ones()])
def test_6_where_policy_is_reference_the_loss_is_log_2_and_the_norms(
    batch: Pairs, prepared: Callable[..., Any], mask: Mask
) -> None:
    method = with_roles(prepared, sparsepo(mask, lam_u=0.1, lam_d=0.1), reference=tiny())
    losses, metrics = method.loss(batch)
    tokens = method._tokens(batch)
    norms = 0.1 * (tokens["m_u"] + tokens["m_d"]).sum((1, 2)) / (2 if mask.common else 1)
    torch.testing.assert_close(losses, torch.tensor(2.0).log() + norms, rtol=0, atol=1e-5, check_dtype=False)
    assert metrics["kl/tokens"].abs().max() < 1e-5


def test_a_mask_of_ones_without_divergence_is_dpo_on_a_transformer(batch: Pairs, prepared: Callable[..., Any]) -> None:
    method = with_roles(prepared, sparsepo())
    tokens = method._tokens(batch)
    plain = with_roles(prepared, Pairwise(objective=DPO(beta=0.5), robust=Plain()))
    pair = Pair.of(batch, tokens["logps"], tokens["reference"])
    torch.testing.assert_close(method._robust(pair, batch), plain.loss(batch)[0], check_dtype=False)


def test_a_fresh_head_is_alive_and_differs_by_token(batch: Pairs, prepared: Callable[..., Any]) -> None:
    for seed in range(10):
        torch.manual_seed(seed)
        m = with_roles(prepared, sparsepo(Learned()), policy=tiny(seed), reference=tiny(seed + 1)).weigh(batch)
        assert (m[batch.mask] > 0).double().mean() > 0.5
        assert m[batch.mask].std() > 0.01


def test_shares_of_zeros_are_of_each_response(batch: Pairs, prepared: Callable[..., Any]) -> None:
    method = with_roles(prepared, sparsepo(Learned()))
    with torch.no_grad():
        method.mask.bias -= 0.9
    weights, (_, metrics) = method.weigh(batch), method.loss(batch)
    zeros = [((weights[b, n] == 0) & batch.mask[b, n]).sum() / batch.length[b, n] for b, n in ((0, 0), (1, 1), (2, 1))]
    torch.testing.assert_close(metrics["zeros/m_u/chosen"], torch.stack(zeros))
    assert 0 < metrics["zeros/m_u/chosen"].mean() < 1


def test_the_head_learns_at_its_own_rate_in_its_own_group(prepared: Callable[..., Any]) -> None:
    method = with_roles(prepared, sparsepo(Learned(lr=2e-3, weight_decay=0.01)))
    method._optimizer = lambda groups: torch.optim.AdamW(groups, lr=5e-4, weight_decay=0.0)
    (optimizer,), _ = method.configure_optimizers()
    policy, head = optimizer.param_groups
    assert [(group["lr"], group["weight_decay"]) for group in (policy, head)] == [(5e-4, 0.0), (2e-3, 0.01)]
    assert {id(p) for p in head["params"]} == {id(p) for p in method.mask.parameters()}
    assert {id(p) for p in policy["params"]} == {id(p) for p in method.policy.parameters()}


def test_the_head_is_in_the_state_of_the_method_and_the_reference_is_not(prepared: Callable[..., Any]) -> None:
    state = with_roles(prepared, sparsepo(Learned())).state_dict()
    assert {name for name in state if not name.startswith("policy.")} == {
        "mask.norm.weight",
        "mask.norm.bias",
        "mask.gates",
        "mask.bias",
        "mask.mixer",
    }


def test_with_an_adapter_the_masks_are_those_of_the_base(batch: Pairs, prepared: Callable[..., Any]) -> None:
    from peft import LoraConfig, get_peft_model

    policy = tiny()
    adapted = CausalPolicy(get_peft_model(policy.model, LoraConfig(r=2)), None, max_response_length=8)
    for name, p in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p, std=0.5)
    for mask in (Learned(), Activations()):
        method = with_roles(prepared, sparsepo(mask), policy=adapted, reference=AdapterOff(adapted))
        base = with_roles(prepared, sparsepo(mask), policy=tiny(3), reference=tiny())
        if isinstance(mask, Learned):
            base.mask = method.mask
        torch.testing.assert_close(method.weigh(batch), base.weigh(batch))
        found = method._tokens(batch)
        torch.testing.assert_close(found["reference"], base._tokens(batch)["reference"])
        assert found["kl"].max() > 1e-3


def test_what_cannot_be_masked_or_cached_is_refused(home: Path) -> None:
    from prefopt.run import run

    for objective in (SimPO(), KTO()):
        with pytest.raises(PrefoptError, match="weighs log-ratios"):
            SparsePO(objective=objective, robust=Plain(), mask=Ones())
    with pytest.raises(PrefoptError, match="rewarded"):
        sparsepo(lam_u=-1.0)
    with pytest.raises(PrefoptError, match="whole next-token laws"):
        run(composed(["method=sparsepo", "method.needs.reference=cached", "tracking=none", "dataset.pairs=8"]))
    with pytest.raises(PrefoptError, match="fsdp does not gather"):
        check_processes({"strategy": "fsdp", "num_nodes": 1, "devices": 1}, sparsepo(), "text")
    with pytest.raises(PrefoptError, match="exact world"):
        run(composed(["method=sparsepo", "dataset=bandit", "model=log_linear", "tracking=none"]))
