"""Log-probs are those of the model on each row alone, without padding."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prefopt.batch import Groups
from prefopt.engine.logps import backbone, response_states, token_collisions, token_logps

PROMPTS, LENGTHS = [3, 1, 6, 4], [[5, 2], [1, 7], [4, 4], [3, 1]]


def naive(model: Any, groups: Groups) -> Tensor:
    """[B, n, T] by one forward pass a response, unpadded, and a log-softmax over all its logits."""
    values = torch.zeros(groups.response.shape)
    for b in range(len(groups)):
        for k in range(groups.n):
            p, t = int(groups.prompt_length[b]), int(groups.length[b, k])
            row = torch.cat([groups.prompt[b, :p], groups.response[b, k, :t]])
            law = model(input_ids=row[None]).logits[0].float().log_softmax(-1)
            values = values.index_put(
                (torch.tensor(b), torch.tensor(k), torch.arange(t)), law[p - 1 : -1].gather(1, row[p:, None])[:, 0]
            )
    return values


def test_log_probs_are_those_of_each_row_alone(model: Any, groups_of: Callable[..., Groups]) -> None:
    groups = groups_of(PROMPTS, LENGTHS)
    with torch.no_grad():
        logps, expected = token_logps(model, groups), naive(model, groups)
    assert logps.shape == (4, 2, 7)
    assert logps.dtype == torch.float32
    assert expected.std() > 0.3
    torch.testing.assert_close(logps, expected, rtol=1e-5, atol=1e-5)
    assert (logps[~groups.mask] == 0).all()


def test_gradients_are_those_of_each_row_alone(model: Any, groups_of: Callable[..., Groups]) -> None:
    groups = groups_of(PROMPTS, LENGTHS)
    weights = torch.randn(groups.response.shape, generator=torch.Generator().manual_seed(0))
    found = []
    for function in (token_logps, naive):
        model.zero_grad()
        (function(model, groups) * weights).sum().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) >= 8
    for name, gradient in found[1].items():
        torch.testing.assert_close(
            found[0][name], gradient, rtol=1e-4, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_collisions_are_of_the_law_of_each_token(model: Any, groups_of: Callable[..., Groups]) -> None:
    groups = groups_of(PROMPTS, LENGTHS)
    collisions = token_collisions(model, groups)
    assert not collisions.requires_grad
    assert (collisions[~groups.mask] == 0).all()
    for b in range(len(groups)):
        for k in range(groups.n):
            p, t = int(groups.prompt_length[b]), int(groups.length[b, k])
            row = torch.cat([groups.prompt[b, :p], groups.response[b, k, :t]])
            law = model(input_ids=row[None]).logits[0].float().softmax(-1)[p - 1 : -1]
            torch.testing.assert_close(collisions[b, k, :t], (law**2).sum(-1).log(), rtol=1e-5, atol=1e-5)


shapes = st.lists(
    st.tuples(st.integers(1, 9), st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))),
    min_size=1,
    max_size=5,
)


@settings(max_examples=15)
@given(shape=shapes, seed=st.integers(0, 1000))
def test_any_lengths_fit_together(
    build: Callable[..., Any], groups_of: Callable[..., Groups], shape: Any, seed: int
) -> None:
    model = build("llama")
    groups = groups_of([p for p, _ in shape], [list(lengths) for _, lengths in shape], seed)
    with torch.no_grad():
        torch.testing.assert_close(token_logps(model, groups), naive(model, groups), rtol=1e-5, atol=1e-5)


def test_tokens_beyond_the_lengths_are_not_seen(model: Any, groups_of: Callable[..., Groups]) -> None:
    groups = groups_of(PROMPTS, LENGTHS)
    with torch.no_grad():
        before = token_logps(model, groups)
        groups.response[~groups.mask] = 9
        groups.prompt[torch.arange(6) >= groups.prompt_length[:, None]] = 9
        torch.testing.assert_close(token_logps(model, groups), before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_batch_is_what_its_parts_are(build: Callable[..., Any], groups_of: Callable[..., Groups], name: str) -> None:
    groups, model = groups_of(PROMPTS, LENGTHS), build(name)
    with torch.no_grad():
        whole = token_logps(model, groups)
        parts = torch.cat([token_logps(model, part) for part in groups.split(3)])
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_a_reward_model_reads_the_last_token_of_each_row(groups_of: Callable[..., Groups]) -> None:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    from prefopt.models.causal import RewardModel

    torch.manual_seed(5)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=23, num_labels=1, pad_token_id=0, initializer_range=0.4, **shape)
    model = LlamaForSequenceClassification(config).eval()
    groups = groups_of(PROMPTS, LENGTHS)
    with torch.no_grad():
        scores = RewardModel(model, None).score(groups)
        for b, p in enumerate(PROMPTS):
            for k, t in enumerate(LENGTHS[b]):
                row = torch.cat([groups.prompt[b, :p], groups.response[b, k, :t]])
                torch.testing.assert_close(model(input_ids=row[None]).logits[0, 0], scores[b, k], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_copy_of_the_trunk_alone_has_the_states_of_the_whole_model(model: Any, groups_of: Any) -> None:
    groups = groups_of([3, 1], [[2, 4], [1, 3]])
    (own, _), (whole, _) = (response_states(part, groups) for part in (copy.deepcopy(backbone(model)), model))
    assert torch.equal(own, whole)
