"""Packing: which models are packed, that those which are not have the same log-probs, and that nothing waits."""

import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from prefopt.batch import Groups, on_host
from prefopt.engine import attention, head, layout
from prefopt.engine.attention import laid_out
from prefopt.engine.layout import Packed, packed, rows
from prefopt.engine.logps import backbone, last_states, pooled_states, token_logps
from prefopt.models.causal import without_dropout
from tests.engine.test_logps import LENGTHS, PROMPTS, naive


def gradients(model: Any, logps: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    (logps * torch.arange(logps.numel()).view(logps.shape).cos()).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_common_architectures_are_packed(model: Any, groups_of: Callable[..., Groups]) -> None:
    groups = groups_of(PROMPTS, LENGTHS)
    where = laid_out(backbone(model), groups)
    assert isinstance(where, Packed)
    assert where.tokens.numel() == sum(PROMPTS) + sum(map(sum, LENGTHS))


def mistral() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return MistralForCausalLM(MistralConfig(vocab_size=23, num_key_value_heads=1, sliding_window=4, **shape))


def gemma2() -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"num_key_value_heads": 1, "head_dim": 8, "final_logit_softcapping": 2.0}
    return Gemma2ForCausalLM(Gemma2Config(vocab_size=23, **shape | more))


def bloom() -> Any:
    from transformers import BloomConfig, BloomForCausalLM

    return BloomForCausalLM(BloomConfig(vocab_size=23, hidden_size=16, n_layer=2, n_head=2))


def phimoe() -> Any:
    from transformers import PhimoeConfig, PhimoeForCausalLM

    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"num_key_value_heads": 1, "sliding_window": 4, "num_local_experts": 2}
    return PhimoeForCausalLM(PhimoeConfig(vocab_size=23, **shape | more))


def lfm2() -> Any:
    from transformers import Lfm2Config, Lfm2ForCausalLM

    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"num_key_value_heads": 1, "layer_types": ["conv", "full_attention"]}
    return Lfm2ForCausalLM(Lfm2Config(vocab_size=23, **shape | more))


@pytest.mark.parametrize("make", [mistral, gemma2, bloom, phimoe, lfm2])
def test_a_model_whose_attention_is_not_ours_to_choose_is_not_packed_and_has_the_same_log_probs(
    make: Callable[[], Any], groups_of: Callable[..., Groups]
) -> None:
    torch.manual_seed(5)
    model, groups = make().eval(), groups_of(PROMPTS, LENGTHS)
    before = model.config._attn_implementation
    assert not isinstance(laid_out(backbone(model), groups), Packed)
    assert model.config._attn_implementation == before
    with torch.no_grad():
        torch.testing.assert_close(token_logps(model, groups), naive(model, groups), rtol=1e-4, atol=1e-5)


def granite() -> Any:
    from transformers import GraniteConfig, GraniteForCausalLM

    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return GraniteForCausalLM(GraniteConfig(vocab_size=23, logits_scaling=4.0, initializer_range=0.4, **shape))


def cohere() -> Any:
    from transformers import CohereConfig, CohereForCausalLM

    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"logit_scale": 0.3, "initializer_range": 0.4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return CohereForCausalLM(CohereConfig(vocab_size=23, **shape | more))


@pytest.mark.parametrize("make", [granite, cohere, gemma2])
def test_logits_that_a_model_changes_are_changed_in_chunks_too(
    make: Callable[[], Any], groups_of: Callable[..., Groups], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(5)
    model, groups = make().eval(), groups_of(PROMPTS, LENGTHS)
    monkeypatch.setattr(head, "CHUNK", 3 * 23)
    found, expected = token_logps(model, groups), naive(model, groups)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    one, other = gradients(model, found), gradients(model, expected)
    for key in other:
        torch.testing.assert_close(one[key], other[key], rtol=1e-3, atol=1e-4)


def test_a_model_whose_attention_was_changed_since_is_no_longer_packed(
    build: Callable[..., Any], groups_of: Callable[..., Groups]
) -> None:
    model, groups = build("llama"), groups_of(PROMPTS, LENGTHS)
    assert isinstance(laid_out(backbone(model), groups), Packed)
    model.config._attn_implementation = "eager"
    with torch.no_grad():
        torch.testing.assert_close(token_logps(model, groups), naive(model, groups), rtol=1e-5, atol=1e-5)


def test_compiled_models_go_when_nobody_uses_them(build: Callable[..., Any]) -> None:
    model = build("llama")
    attention.compile_packed(backbone(model))
    gone = weakref.ref(backbone(model))
    del model
    gc.collect()
    assert gone() is None


def test_rows_and_packed_have_the_same_states(model: Any, groups_of: Callable[..., Groups]) -> None:
    groups, inner = groups_of(PROMPTS, LENGTHS), backbone(model)
    with torch.no_grad():
        for place in ("before", "own", "last"):
            one, other = (
                attention.states(inner, where).last_hidden_state.flatten(0, 1)[getattr(where, place)]
                for where in (rows(groups), packed(groups))
            )
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_tokens_and_places_are_those_of_each_row(groups_of: Callable[..., Groups]) -> None:
    groups = groups_of(PROMPTS, LENGTHS)
    for where in (rows(groups), packed(groups)):
        tokens = where.tokens.flatten()
        assert torch.equal(tokens[where.own], groups.response[groups.mask])
        first = torch.tensor([t == 0 for lengths in LENGTHS for length in lengths for t in range(length)])
        ends = [groups.prompt[b, PROMPTS[b] - 1] for b in range(4) for _ in range(2)]
        assert tokens[where.before][first].tolist() == ends
        assert torch.equal(where.before[~first], where.own[~first] - 1)
    assert packed(groups).positions[0].tolist() == [
        position
        for b in range(4)
        for part in (range(PROMPTS[b]), *(range(PROMPTS[b], PROMPTS[b] + t) for t in LENGTHS[b]))
        for position in part
    ]


@pytest.mark.parametrize("name", ["llama", "gpt2", "llama with LoRA"])
def test_recomputed_activations_give_the_same_gradients(
    build: Callable[..., Any], groups_of: Callable[..., Groups], name: str
) -> None:
    groups, model = groups_of(PROMPTS, LENGTHS), without_dropout(build(name)).train()
    plain = gradients(model, token_logps(model, groups))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if hasattr(model, "enable_input_require_grads"):
        model.enable_input_require_grads()
    again = gradients(model, token_logps(model, groups))
    assert again.keys() == plain.keys()
    for key in plain:
        torch.testing.assert_close(again[key], plain[key], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kept", [0, 10**9])
@pytest.mark.parametrize("chunk", [1, 50, 10**9])
@pytest.mark.parametrize("biased", [False, True])
def test_the_head_in_chunks_is_the_head_at_once(
    build: Callable[..., Any],
    groups_of: Callable[..., Groups],
    monkeypatch: pytest.MonkeyPatch,
    chunk: int,
    kept: int,
    biased: bool,
) -> None:
    groups, model = groups_of(PROMPTS, LENGTHS), build("llama")
    if biased:
        model.lm_head.bias = torch.nn.Parameter(torch.randn(23))
    monkeypatch.setattr(head, "CHUNK", chunk)
    monkeypatch.setattr(head, "KEPT", kept)
    found, expected = token_logps(model, groups), naive(model, groups)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    one, other = gradients(model, found), gradients(model, expected)
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-4, atol=1e-4)


def test_a_frozen_head_passes_the_gradient_on(build: Callable[..., Any], groups_of: Callable[..., Groups]) -> None:
    groups, model = groups_of(PROMPTS, LENGTHS), build("llama")
    model.lm_head.weight.requires_grad_(False)
    one, other = (gradients(model, function(model, groups)) for function in (token_logps, naive))
    assert one.keys() == other.keys() and "lm_head.weight" not in one
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("short", [1, 1024])
def test_bfloat16_is_near(
    build: Callable[..., Any], groups_of: Callable[..., Groups], monkeypatch: pytest.MonkeyPatch, short: int
) -> None:
    groups, model = groups_of(PROMPTS, LENGTHS), build("qwen2")
    expected = naive(model, groups)
    monkeypatch.setattr(attention, "SHORT", short)
    with torch.autocast("cpu", torch.bfloat16):
        found = token_logps(model, groups)
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 0.02 * expected.norm()
    one, other = gradients(model, found), gradients(model, expected)
    for key in other:
        assert (one[key] - other[key]).norm() < 0.05 * other[key].norm(), key


def test_lengths_are_known_on_the_host_wherever_groups_are_moved(groups_of: Callable[..., Groups]) -> None:
    groups = groups_of(PROMPTS, LENGTHS)
    moved = groups.to("meta")
    assert on_host(moved.length) is groups.length
    assert torch.equal(on_host(moved.pick(slice(1, 3)).prompt_length), groups.prompt_length[1:3])


def test_states_at_the_ends_of_prompts_are_those_of_the_prompts_alone(
    model: Any, groups_of: Callable[..., Groups]
) -> None:
    groups, inner = groups_of(PROMPTS, LENGTHS), backbone(model)
    packs, (_, asked) = laid_out(inner, groups), last_states(model, groups)
    alone = [
        inner(input_ids=row[None, :n]).last_hidden_state[0, -1] for row, n in zip(groups.prompt, PROMPTS, strict=True)
    ]
    torch.testing.assert_close(asked, torch.stack(alone), rtol=1e-4, atol=1e-4)
    assert isinstance(packs, Packed)
    in_rows = rows(groups)
    assert torch.equal(in_rows.tokens.flatten()[in_rows.asked], packs.tokens.flatten()[packs.asked])


def test_nothing_waits_for_the_device(model: Any, groups_of: Callable[..., Groups]) -> None:
    """A tensor on `meta` has no values: whatever would have to read one fails."""
    import copy

    groups = groups_of(PROMPTS, LENGTHS)
    away = copy.deepcopy(model)
    assert isinstance(laid_out(backbone(away), groups), Packed)
    away = away.to("meta")
    token_logps(away, groups.to("meta")).sum().backward()
    for moved in groups.to("meta").split(2):
        assert pooled_states(away, moved).shape == (2, 2, 16)
        assert [found.shape for found in last_states(away, moved)] == [(4, 16), (2, 16)]


def test_compiled_it_is_one_graph_for_all_lengths_with_the_same_log_probs(
    build: Callable[..., Any], groups_of: Callable[..., Groups], monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend, fullgraph=True))
    model = build("llama")
    monkeypatch.setattr(layout, "WITHIN", 0.0)
    attention.compile_packed(backbone(model))
    for lengths in (LENGTHS, [[1, 2], [9, 3], [2, 2], [5, 6]]):
        groups = groups_of(PROMPTS, lengths)
        found, expected = token_logps(model, groups), naive(model, groups)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert len(graphs) == 1


def test_transformers_own_files_do_not_name_our_attention(
    build: Callable[..., Any], groups_of: Callable[..., Groups], tmp_path: Any
) -> None:
    model = build("llama")
    token_logps(model, groups_of(PROMPTS, LENGTHS))
    assert model.config._attn_implementation == attention.NAME
    model.save_pretrained(tmp_path)
    assert attention.NAME not in (tmp_path / "config.json").read_text()
