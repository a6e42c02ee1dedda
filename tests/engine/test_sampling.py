"""Sampled tokens follow the model's law, end at EOS, and depend on nothing but model, prompts and generator."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

import prefopt.engine.sampling as sampling
from prefopt.batch import Groups
from prefopt.engine.logps import token_logps
from prefopt.engine.sampling import draw, sample

EOS = 2
PROMPTS = [3, 1, 6, 4]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampled(model: Any, prompts: Groups, n: int, seed: int = 0, max_length: int = 6) -> Groups:
    return sample(model, prompts, n, max_length=max_length, eos=EOS, generator=seeded(seed))


@pytest.fixture
def laws(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The log-probs [rows, V] that each step drew from."""
    seen: list[Tensor] = []

    def recorded(logps: Tensor, generator: torch.Generator | None) -> Tensor:
        seen.append(logps.clone())
        return draw(logps, generator)

    monkeypatch.setattr(sampling, "draw", recorded)
    return seen


def test_tokens_are_drawn_from_the_log_probs_that_losses_use(
    model: Any, groups_of: Callable[..., Groups], laws: list[Tensor]
) -> None:
    """At every step, behind left padding and on a cache, the law is that of the whole row alone."""
    answers = sampled(model, groups_of(PROMPTS, torch.zeros(4, 0, dtype=torch.long)), 3)
    steps = torch.stack(laws, 1).view(4, 3, len(laws), -1)
    drawn = steps.gather(-1, answers.response[..., None])[..., 0]
    with torch.no_grad():
        expected = token_logps(model, answers)
    torch.testing.assert_close(drawn * answers.mask, expected, rtol=1e-4, atol=1e-4)


def test_a_prompt_has_the_same_law_alone_and_in_a_padded_batch(
    model: Any, groups_of: Callable[..., Groups], laws: list[Tensor]
) -> None:
    prompts = groups_of(PROMPTS, torch.zeros(4, 0, dtype=torch.long))
    sampled(model, prompts, 1, max_length=1)
    for row in range(4):
        sampled(model, prompts.pick(slice(row, row + 1)), 1, max_length=1)
        torch.testing.assert_close(laws[1 + row][0], laws[0][row], rtol=1e-4, atol=1e-5)
    assert (laws[0][0] - laws[0][1]).abs().max() > 0.1


def test_what_is_drawn_follows_the_law(build: Callable[..., Any], groups_of: Callable[..., Groups]) -> None:
    """First tokens, and second tokens after the likeliest first one, against the model by a chi-square test."""
    vocabulary, n = 6, 6000
    model = build("llama", vocab_size=vocabulary)
    prompts = groups_of([2, 4], torch.zeros(2, 0, dtype=torch.long), vocabulary=vocabulary)
    answers = sampled(model, prompts, n, max_length=2)
    for row, p in enumerate([2, 4]):
        first, second = answers.response[row].T
        prompt = prompts.prompt[row, :p]
        follows(model, prompt, first)
        counts = torch.bincount(first, minlength=vocabulary)
        counts[EOS] = 0
        likely = int(counts.argmax())
        follows(model, torch.cat([prompt, torch.tensor([likely])]), second[first == likely])


@torch.no_grad()
def follows(model: Any, prompt: Tensor, tokens: Tensor) -> None:
    law = model(input_ids=prompt[None]).logits[0, -1].double().softmax(-1)
    counts = torch.bincount(tokens, minlength=len(law)).double()
    common = law * len(tokens) >= 5
    assert common.sum() >= 3
    rest = torch.stack([counts[~common].sum(), law[~common].sum() * len(tokens)])
    seen = torch.cat([counts[common], rest[:1]]) if (~common).any() else counts
    expected = torch.cat([law[common] * len(tokens), rest[1:]]) if (~common).any() else law * len(tokens)
    assert chisquare(seen, expected * (seen.sum() / expected.sum())).pvalue > 1e-3


def test_draws_of_a_known_law_follow_it() -> None:
    law = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0], dtype=torch.float64)
    tokens = draw(law.log().expand(20_000, -1), seeded(1))
    counts = torch.bincount(tokens, minlength=5).double()
    assert counts[4] == 0
    assert chisquare(counts[:4], law[:4] * 20_000).pvalue > 1e-3


def test_answers_end_with_eos_or_at_the_limit(build: Callable[..., Any], groups_of: Callable[..., Groups]) -> None:
    model = build("llama", vocab_size=6)
    prompts = groups_of([2, 4, 1], torch.zeros(3, 0, dtype=torch.long), vocabulary=6)
    answers = sampled(model, prompts, 100, max_length=5)
    assert answers.response.shape == (3, 100, 5)
    ended = 0
    for response, length in zip(answers.response.flatten(0, 1), answers.length.flatten(), strict=True):
        inside = response[:length]
        assert 1 <= length <= 5
        assert (inside[:-1] != EOS).all()
        assert (response[length:] == 0).all()
        assert length == 5 or inside[-1] == EOS
        ended += int(inside[-1] == EOS)
    assert 20 < ended < 300
    assert answers.mean_length == answers.length.float().mean()
    assert torch.equal(answers.prompt, prompts.prompt)


def test_no_step_is_taken_when_all_have_ended(build: Callable[..., Any], groups_of: Callable[..., Groups]) -> None:
    model = build("llama")
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.bias = torch.nn.Parameter(torch.where(torch.arange(23) == EOS, 100.0, 0.0))
    answers = sampled(model, groups_of([2, 3], torch.zeros(2, 0, dtype=torch.long)), 4, max_length=50)
    assert answers.response.tolist() == [[[EOS]] * 4] * 2
    assert (answers.length == 1).all()


def test_the_generator_is_the_only_source_of_randomness(
    build: Callable[..., Any], groups_of: Callable[..., Groups]
) -> None:
    model, prompts = build("llama"), groups_of(PROMPTS, torch.zeros(4, 0, dtype=torch.long))
    before = torch.get_rng_state()
    first = sampled(model, prompts, 2, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(sampled(model, prompts, 2, seed=1).response, first.response)
    other = sampled(model, prompts, 2, seed=2)
    assert other.response.shape != first.response.shape or not torch.equal(other.response, first.response)


def test_samples_forget_what_the_given_responses_had(
    build: Callable[..., Any], groups_of: Callable[..., Groups]
) -> None:
    from dataclasses import replace

    given = groups_of(PROMPTS, [[5, 2]] * 4)
    answers = sampled(build("llama"), replace(given, reference=torch.zeros(4, 2, 5)), 3)
    assert answers.reference is None
    assert answers.response.shape[:2] == (4, 3)
