"""Preference degree awareness (arXiv 2409.17791): key phrases, variants, the degree loss, and what it leaves alone."""

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prefopt.batch import Degraded, Groups, Pairs
from prefopt.config import composed
from prefopt.datasets.words import Words
from prefopt.engine.logps import pooled_states
from prefopt.errors import PrefoptError
from prefopt.methods.pairwise.base import Pairwise
from prefopt.methods.pairwise.degrees import degraded, taken, without
from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.rake import Rake
from prefopt.methods.pairwise.robust.none import Plain
from prefopt.methods.pairwise.spo_degree import SPODegree
from prefopt.methods.pairwise.worth import Anywhere, Worth
from prefopt.models.text import Tiny
from prefopt.models.tokenizer import train_tokenizer
from prefopt.run import run
from prefopt.table import Table

WORDS = Words(pairs=24, test_pairs=8, demonstrations=8, seed=3)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(WORDS.texts(), 512)


@pytest.fixture(scope="module")
def data(tokenizer: Any) -> Any:
    return WORDS.load(tokenizer)


def method(gamma: float = 0.3, keys: Any = None, degrees: int = 4) -> SPODegree:
    keys = keys or Worth(dataset=WORDS)
    return SPODegree(objective=DPO(beta=0.1), robust=Plain(), keys=keys, gamma=gamma, degrees=degrees, lost=0.375)


def variants(table: Table, tokenizer: Any, keys: Any, **changes: Any) -> Table:
    """Three of a response's eight words are the last degree's."""
    settings = {"degrees": 4, "lost": 0.375, "matched": False, "seed": 5, "round": 0}
    return degraded(table, tokenizer, keys=keys, **settings | changes)


@pytest.fixture
def roles(data: Any, tokenizer: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    model = Tiny(vocabulary=512, hidden_size=16, layers=1, heads=2)
    policy = model.policy(data, tokenizer, None)
    reference = model.policy(data, tokenizer, None)
    reference.load_state_dict(policy.state_dict())
    return {"policy": policy, "reference": reference}


def whole(prepared: Any, roles: dict[str, Any], data: Any, **settings: Any) -> tuple[SPODegree, Degraded]:
    spo = prepared(method(**settings), **roles)
    table = spo.collect(data.train.pairs, 0)
    return spo, table.batch(np.arange(len(table)))


# Key phrases


def test_3_rake_where_every_word_scores_three() -> None:
    text = "deep learning models need large training data and deep learning hardware"
    scored = Rake(stop_words=frozenset({"need", "and"})).scored(text)
    assert {phrase: score for phrase, (score, _) in scored.items()} == {
        "deep learning models": 9,
        "large training data": 9,
        "deep learning hardware": 9,
    }


def test_4_rake_where_constraints_weigh_most() -> None:
    scored = Rake(stop_words=frozenset({"of"})).scored("compatibility of systems of linear constraints")
    assert [(phrase, score) for phrase, (score, _) in scored.items()] == [
        ("linear constraints", 4),
        ("compatibility", 1),
        ("systems", 1),
    ]


def test_phrases_end_at_punctuation_and_keep_all_their_places() -> None:
    text = "Red wine, the red wine.\nGlass of Red wine"
    scored = Rake().scored(text)
    assert list(scored) == ["red wine", "glass"]
    assert [text[start:end] for start, end in scored["red wine"][1]] == ["Red wine", "red wine", "Red wine"]


@given(st.text(max_size=60))
def test_any_text_has_phrases_of_itself_without_stop_words(text: str) -> None:
    rake = Rake()
    for phrase, (score, spans) in rake.scored(text).items():
        assert score >= 1
        assert not rake.stop_words & set(phrase.split())
        assert all(text[start:end].strip() for start, end in spans)


def test_the_oracle_takes_the_words_of_largest_worth(data: Any) -> None:
    text = " ".join(sorted(WORDS.values, key=lambda word: abs(WORDS.values[word])))
    found = [text[start:end] for ((start, end),) in Worth(dataset=WORDS)(text)]
    assert found == text.split()[::-1]


def test_words_anywhere_depend_on_the_text_alone() -> None:
    text = " red cat fig saw hen"
    assert Anywhere()(text) == Anywhere()(text)
    chosen = {Anywhere()(f"{text} {word}")[0][0] for word in "abcdefgh"}
    assert len(chosen) > 2


# Variants


@given(n=st.integers(0, 40), degrees=st.integers(2, 6), lost=st.floats(0.05, 1), k=st.integers(0, 5))
def test_a_degree_takes_groups_of_one_size_best_phrases_first(n: int, degrees: int, lost: float, k: int) -> None:
    phrases, degree = [[(2 * i, 2 * i + 1)] for i in range(n)], min(k, degrees - 1)
    size = math.ceil(n * lost / (degrees - 1))
    plain, matched = (taken(phrases, degree, degrees=degrees, lost=lost, matched=each) for each in (False, True))
    if n < degrees - 1 or (degrees - 2) * size >= n:
        assert plain is None and matched is None
        return
    assert plain == phrases[: size * degree]
    assert matched is not None and matched[: len(plain)] == plain
    assert len(matched) == min(size * (degrees - 1), n)
    assert matched[len(plain) :] == phrases[n - len(matched) + len(plain) :]


@given(words=st.lists(st.sampled_from(["red", "cat", "fig"]), min_size=1, max_size=8), data=st.data())
def test_what_goes_goes_with_its_blank(words: list[str], data: Any) -> None:
    text = "".join(f" {word}" for word in words)
    gone = data.draw(st.sets(st.integers(0, len(words) - 1)))
    spans = [(1 + 4 * i, 4 + 4 * i) for i in gone]
    assert without(text, spans) == "".join(f" {word}" for i, word in enumerate(words) if i not in gone)


def test_5_degrees_take_out_ever_more_of_what_matters_most(data: Any, tokenizer: Any) -> None:
    table, keys = data.train.pairs, Worth(dataset=WORDS)
    seen = set()
    for round in range(6):
        found = variants(table, tokenizer, keys, round=round)
        degree = found.columns["degree"].ravel()
        texts = tokenizer.batch_decode(list(found.response), skip_special_tokens=True)
        for tokens, variant, k, text in zip(found.response, found.ragged["variant"], degree, texts, strict=True):
            gone = [span for phrase in keys(text)[:k] for span in phrase]
            expected = tokenizer(without(text, gone))["input_ids"] + [tokenizer.eos_token_id]
            assert variant.tolist() == expected
            assert k > 0 or variant.tolist() == tokens.tolist()
        seen |= set(degree.tolist())
    assert seen == {0, 1, 2, 3}


def test_a_degree_is_a_function_of_seed_round_and_id(data: Any, tokenizer: Any) -> None:
    table, keys = data.train.pairs, Worth(dataset=WORDS)

    def degrees(table: Table, seed: int, round: int) -> np.ndarray:
        return variants(table, tokenizer, keys, seed=seed, round=round).columns["degree"]

    usual = degrees(table, 5, 1)
    assert np.array_equal(usual, degrees(table, 5, 1))
    assert not np.array_equal(usual, degrees(table, 6, 1)) and not np.array_equal(usual, degrees(table, 5, 2))
    assert not np.array_equal(usual[:, 0], usual[:, 1])
    later = {"prompt": table.prompt.take(np.arange(12, 24)), "response": table.response.take(np.arange(24, 48))}
    half = replace(table, ids=table.ids[12:], columns={"label": table.columns["label"][12:]}, known={}, **later)
    assert np.array_equal(usual[12:], degrees(half, 5, 1))


def test_short_responses_have_no_degree(data: Any, tokenizer: Any) -> None:
    table = variants(data.train.pairs, tokenizer, lambda text: Worth(dataset=WORDS)(text)[:2])
    assert (table.columns["degree"] == -1).all()
    assert [row.tolist() for row in table.ragged["variant"]] == [row.tolist() for row in table.response]


def test_length_gives_degrees_away_where_they_are_words_of_one_length(data: Any, tokenizer: Any) -> None:
    table = variants(data.train.pairs, tokenizer, Worth(dataset=WORDS))
    assert table.columns["given_away"].all()
    matched = variants(data.train.pairs, tokenizer, Worth(dataset=WORDS), matched=True)
    assert matched.columns["given_away"].mean() < 0.5
    assert set(matched.ragged["variant"].lengths) == {6}


# The loss


def test_1_without_gamma_it_is_the_alignment_loss(prepared: Any, roles: dict[str, Any], data: Any) -> None:
    spo, batch = whole(prepared, roles, data, gamma=0.0)
    plain = prepared(Pairwise(objective=DPO(beta=0.1), robust=Plain()), **roles)
    gradients = []
    for each in (spo, plain):
        each.policy.zero_grad()
        losses, metrics = each.loss(batch)
        losses.sum().backward()
        gradients.append([losses.detach(), *(p.grad.clone() for p in each.policy.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert not any(name.startswith("degree/") for name in metrics)


def test_2_at_the_start_heads_know_nothing(prepared: Any, roles: dict[str, Any], data: Any) -> None:
    spo, batch = whole(prepared, roles, data)
    losses, metrics = spo.loss(batch)
    assert losses.tolist() == pytest.approx([1.524924] * len(batch), abs=1e-5)
    assert (metrics["degree/skipped"] == 0).all()


def test_6_both_heads_and_the_trunk_learn_and_the_reference_does_not(
    prepared: Any, roles: dict[str, Any], data: Any, tmp_path: Any
) -> None:
    spo, batch = whole(prepared, roles, data)
    with torch.no_grad():
        for parameter in spo.heads.parameters():
            parameter.normal_(std=0.1)
    spo.objective.beta = 0.0  # nothing is left of the alignment loss's gradient
    spo.loss(batch)[0].sum().backward()
    for head in spo.heads:
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
    moved = {name for name, p in spo.policy.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any("mlp" in name for name in moved) and any("embed" in name for name in moved)
    assert all(p.grad is None for p in roles["reference"].parameters())
    spo.policy.export(tmp_path)
    assert not any("head" in name and "lm_head" not in name for name in spo.policy.state_dict())


def test_heads_have_a_learning_rate_of_their_own(prepared: Any, roles: dict[str, Any], data: Any) -> None:
    spo, _ = whole(prepared, roles, data)
    (optimizer,), _ = spo.configure_optimizers()
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {rates[p] for p in spo.heads.parameters()} == {1e-2}
    assert {rates[p] for p in spo.policy.parameters()} == {1e-3}


def test_7_the_alignment_loss_sees_no_variant(prepared: Any, roles: dict[str, Any], data: Any) -> None:
    spo, batch = whole(prepared, roles, data)
    scrambled = replace(batch, variant=batch.variant.flip(0), variant_length=batch.variant_length.flip(0))
    one, other = (Pairwise.loss(spo, each)[0] for each in (batch, scrambled))
    assert torch.equal(one, other)


def test_heads_follow_the_label_and_skip_what_has_no_degree(prepared: Any, roles: dict[str, Any], data: Any) -> None:
    spo, batch = whole(prepared, roles, data)
    with torch.no_grad():
        spo.heads[0].bias.copy_(torch.tensor([0.0, 3.0, 0.0, 0.0]))
    degree = torch.ones_like(batch.degree)
    degree[torch.arange(len(batch)), 1 - batch.label] = -1
    _, metrics = spo.loss(replace(batch, degree=degree))
    assert (metrics["degree/accuracy"] == 1).all() and (metrics["degree/accuracy_chosen"] == 1).all()
    assert (metrics["degree/accuracy_rejected"] == 0.25).all()  # chance, for want of a degree
    assert (metrics["degree/skipped"] == 0.5).all()
    uniform = math.log(math.exp(3) + 3) - 3
    expected = Pairwise.loss(spo, batch)[0] + 0.3 * uniform
    torch.testing.assert_close(spo.loss(replace(batch, degree=degree))[0], expected)


def test_states_are_pooled_over_the_response_alone(roles: dict[str, Any], data: Any) -> None:
    batch = data.train.pairs.batch(np.arange(6))
    short = replace(batch, length=torch.tensor([[9, 4]] * 6))
    pooled = pooled_states(roles["policy"].model, short)
    for row in range(6):
        for side, length in enumerate((9, 4)):
            tokens = torch.cat([batch.prompt[row], batch.response[row, side, :length]])
            hidden = roles["policy"].model.model(input_ids=tokens[None]).last_hidden_state[0]
            torch.testing.assert_close(pooled[row, side], hidden[-length:].mean(0), rtol=1e-5, atol=1e-5)


def test_what_is_no_degree_is_refused() -> None:
    with pytest.raises(PrefoptError, match=r"method\.degrees=1"):
        method(degrees=1)
    with pytest.raises(PrefoptError, match=r"method\.gamma=-1"):
        method(gamma=-1)
    with pytest.raises(PrefoptError, match=r"method\.lost=0"):
        SPODegree(objective=DPO(), robust=Plain(), keys=Rake(), lost=0.0)


def test_gamma_zero_trains_as_dpo_does(home: Any) -> None:
    """Over two rounds of a whole run, bit for bit."""
    common = ["dataset=words", "dataset.pairs=32", "dataset.test_pairs=8", "dataset.demonstrations=32", "rounds=2"]
    common += ["model=tiny", "model.vocabulary=512", "model.hidden_size=16", "model.layers=1", "model.heads=2"]
    common += ["batch_size=16", "noise=none", "tracking=none", "trainer=cpu", "evaluation.prompts=4"]
    common += ["evaluation.times=1", "evaluation.figures=false", "method.needs.policy.rounds=1"]
    exported = []
    for name in (["method=dpo"], ["method=spo_degree", "method.gamma=0"]):
        policy = run(composed([*common[:-1], *name])).policy
        exported.append((policy / "model.safetensors").read_bytes())
    assert exported[0] == exported[1]


def test_batches_say_all_that_the_loss_asks(data: Any, tokenizer: Any) -> None:
    table = variants(data.train.pairs, tokenizer, Worth(dataset=WORDS))
    batch = table.batch(np.arange(5))
    assert isinstance(batch, Degraded) and isinstance(batch, Pairs) and isinstance(batch, Groups)
    own = {field.name: getattr(batch, field.name) for field in fields(Degraded)}
    assert all(own[name].shape[:2] == (5, 2) for name in ("variant", "variant_length", "degree", "given_away"))
    assert isinstance(own["variant"], Tensor) and own["given_away"].dtype == torch.bool
