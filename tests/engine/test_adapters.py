"""Several adapters of one transformer in one pass give what each model gives by itself."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from prefopt.engine import attention
from prefopt.engine.adapters import Adapters, adapted
from prefopt.engine.logps import token_logps

LENGTHS = [([3, 1], [[2, 5], [4, 1]]), ([6], [[1, 9]]), ([2, 4, 1], [[3, 3], [1, 2], [7, 1]])]


@pytest.fixture(params=["llama", "gpt2", "gpt_neox", "qwen2"])
def models(request: pytest.FixtureRequest, build: Callable[..., Any]) -> list[Any]:
    """Three models of the same frozen weights, with adapters of ranks, scales and weights of their own."""
    from peft import LoraConfig, get_peft_model

    base, found = build(request.param), []
    shared = {id(weight): weight for weight in base.parameters()}
    for k in range(3):
        settings = LoraConfig(task_type="CAUSAL_LM", r=2 + k, lora_alpha=4 - k, target_modules="all-linear")
        model = get_peft_model(copy.deepcopy(base, dict(shared)), settings)
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weights, std=0.2)
        found.append(model)
    return found


@pytest.mark.parametrize("packs", [True, False], ids=["packed", "in rows"])
@pytest.mark.parametrize("members", [[0, 1, 2], [2, 0]], ids=["all", "some"])
def test_log_probs_and_gradients_are_those_of_each_model_alone(
    members: list[int], packs: bool, models: list[Any], groups_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packs:
        monkeypatch.setattr(attention, "_can_pack", lambda backbone: False)
    batches = [groups_of(*LENGTHS[k], seed=k) for k in members]
    found = Adapters(models).logps(batches, members)
    torch.stack([(logps * (k + 1)).sum() for k, logps in enumerate(found)]).sum().backward()
    together = [[p.grad for p in model.parameters() if p.requires_grad] for model in models]
    for model in models:
        model.zero_grad()
    for turn, (k, batch) in enumerate(zip(members, batches, strict=True)):
        alone = token_logps(models[k], batch)
        torch.testing.assert_close(found[turn], alone, rtol=1e-4, atol=1e-5)
        (alone * (turn + 1)).sum().backward()
        for grad, weight in zip(together[k], filter(lambda p: p.requires_grad, models[k].parameters()), strict=True):
            assert (grad - weight.grad).norm() < 1e-4 * weight.grad.norm()
    assert all(grad is None for k in {0, 1, 2} - set(members) for grad in together[k])


def test_a_model_whose_weights_are_not_finite_is_the_only_one_to_suffer(models: list[Any], groups_of: Any) -> None:
    with torch.no_grad():
        next(p for p in models[1].parameters() if p.requires_grad).fill_(torch.nan)
    found = Adapters(models).logps([groups_of(*LENGTHS[k], seed=k) for k in range(3)], range(3))
    assert not found[1].isfinite().all()
    torch.stack([logps.sum() for logps in found]).sum().backward()
    for k in (0, 2):
        assert all(p.grad.isfinite().all() for p in models[k].parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "settings",
    [{"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}, {"target_modules": ["lm_head", "q_proj"]}],
    ids=lambda settings: next(iter(settings)),
)
def test_what_is_more_than_plain_adapters_of_a_transformer_is_refused(settings: Any, build: Callable[..., Any]) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        build("qwen2", tie_word_embeddings=False), LoraConfig(**{"r": 2, "target_modules": ["q_proj"]} | settings)
    )
    with pytest.raises(ValueError, match="no plain LoRA"):
        adapted(model)


def test_a_model_that_torch_compiles_is_refused(build: Callable[..., Any]) -> None:
    model = build("llama with LoRA")
    attention.compile_packed(model.get_base_model().base_model)
    with pytest.raises(ValueError, match="torch compiles it"):
        Adapters([model])
