"""Learning from rationales (arXiv 2407.14477): the loss by hand, what it counts, and what it leaves alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prefopt.batch import Groups, Pairs, Reasoned
from prefopt.config import composed
from prefopt.datasets.words_causes import WordsCauses
from prefopt.errors import PrefoptError
from prefopt.methods.pairwise.base import Pairwise
from prefopt.methods.pairwise.objectives.dpo import DPO
from prefopt.methods.pairwise.rationales import Rationales
from prefopt.methods.pairwise.robust.none import Plain
from prefopt.models.text import Tiny
from prefopt.models.tokenizer import train_tokenizer
from prefopt.run import run

WORLD = WordsCauses(pairs=24, test_pairs=8, demonstrations=8, seed=3)


@pytest.fixture(scope="module")
def data() -> Any:
    return WORLD.load(train_tokenizer(WORLD.texts(), 512))


@pytest.fixture(scope="module")
def policy(data: Any) -> Any:
    torch.manual_seed(0)
    return Tiny(hidden_size=16, layers=1, heads=2).policy(data, train_tokenizer(WORLD.texts(), 512), None)


@pytest.fixture(scope="module")
def batch(data: Any) -> Reasoned:
    table = data.train.pairs
    return table.batch(np.arange(len(table)))


class Stated(torch.nn.Module):
    """Gives responses the log-ratios c and r, and a rationale the log-prob S, each in one token."""

    def __init__(self, c: float, r: float, S: float) -> None:
        super().__init__()
        self.sides = torch.nn.Parameter(torch.tensor([c, r], dtype=torch.float64))
        self.S = torch.nn.Parameter(torch.tensor(S, dtype=torch.float64))

    def logps(self, groups: Groups) -> Tensor:
        first = torch.arange(groups.response.shape[-1]) == 0
        values = self.sides.expand(len(groups), 2) if groups.n == 2 else self.S.expand(len(groups), 1)
        return values[..., None] * first


def one(tokens: int = 5) -> Reasoned:
    return Reasoned(
        index=torch.zeros(1, dtype=torch.long),
        prompt=torch.ones(1, 1, dtype=torch.long),
        prompt_length=torch.ones(1, dtype=torch.long),
        response=torch.tensor([[[3], [4]]]),
        length=torch.ones(1, 2, dtype=torch.long),
        mean_length=torch.tensor(1.0),
        label=torch.tensor([0]),
        reference=torch.zeros(1, 2, 1, dtype=torch.float64),
        judge=torch.ones(1, 2, 3, dtype=torch.long),
        judge_length=torch.full((1, 2), 3),
        rationale=torch.ones(1, 2, tokens, dtype=torch.long),
        rationale_length=torch.full((1, 2), tokens),
    )


def method(**settings: Any) -> Rationales:
    return Rationales(objective=DPO(beta=0.1), robust=Plain(), **settings)


def stated(prepared: Any, S: float, tokens: int = 5, **settings: Any) -> tuple[Rationales, Tensor]:
    """At z = 0.05."""
    made = prepared(method(**settings), policy=Stated(-1.0, -1.5, S), reference=None)
    return made, made.loss(one(tokens))[0][0]


@pytest.mark.parametrize(
    ("gamma", "link", "value"),
    [
        (0.001, "linear", 0.718460),
        (0.001, "logsigmoid", 1.386920),
        (0.1, "linear", 5.668460),
        (0.1, "logsigmoid", 5.675175),
        (1.0, "linear", 50.668460),
        (1.0, "logsigmoid", 50.668460),
    ],
)
def test_1_by_hand(prepared: Any, gamma: float, link: str, value: float) -> None:
    assert stated(prepared, -50.0, gamma=gamma, link=link)[1].item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(("link", "slope"), [("linear", -0.001), ("logsigmoid", -0.000512)])
def test_2_gradients_by_hand(prepared: Any, link: str, slope: float) -> None:
    made, loss = stated(prepared, -50.0, gamma=0.001, link=link)
    loss.backward()
    assert made.policy.S.grad.item() == pytest.approx(slope, abs=1e-6)


def test_3_without_gamma_it_is_dpo_and_nobody_is_asked(prepared: Any, policy: Any, batch: Reasoned) -> None:
    asked: list[int] = []

    class Counting(torch.nn.Module):
        def logps(self, groups: Groups) -> Tensor:
            asked.append(groups.n)
            return policy.logps(groups)

    roles = {"policy": Counting(), "reference": policy}
    ours, theirs = prepared(method(gamma=0.0), **roles), prepared(Pairwise(objective=DPO(), robust=Plain()), **roles)
    policy.requires_grad_(True)
    assert torch.equal(ours.loss(batch)[0], theirs.loss(batch)[0])
    assert set(asked) == {2}
    prepared(method(gamma=0.1), **roles).loss(batch)
    assert asked[-1] == 1


@given(S=st.floats(-80, -0.1), tokens=st.integers(1, 30), gamma=st.floats(1e-3, 2))
def test_5_a_mean_is_a_sum_of_the_right_weight(prepared: Any, S: float, tokens: int, gamma: float) -> None:
    for link in ("linear", "logsigmoid"):
        _, mean = stated(prepared, S, tokens, gamma=gamma * tokens, link=link, reduce="mean")
        _, total = stated(prepared, S, tokens, gamma=gamma, link=link)
        assert mean.item() == pytest.approx(total.item(), rel=1e-9)


def test_4_it_counts_the_rationale_of_the_recorded_verdict_and_nothing_else(
    prepared: Any, policy: Any, batch: Reasoned
) -> None:
    class One(torch.nn.Module):
        def logps(self, groups: Groups) -> Tensor:
            return -groups.mask.double()

    made = prepared(method(gamma=1.0), policy=One(), reference=One())
    added = made.loss(batch)[0] - Pairwise.loss(made, batch)[0]
    rows = torch.arange(len(batch))
    assert added.tolist() == batch.rationale_length[rows, batch.label].tolist() == [6] * len(batch)

    made = prepared(method(gamma=1.0), policy=policy, reference=policy)
    usual = made.loss(batch)[0]
    other = 1 - batch.label
    judge, rationale = batch.judge.clone(), batch.rationale.clone()
    judge[rows, other], rationale[rows, other] = 7, 7
    assert torch.equal(usual, made.loss(replace(batch, judge=judge, rationale=rationale))[0])
    judge = batch.judge.clone()
    judge[rows, batch.label, 1] = 7
    changed = made.loss(replace(batch, judge=judge))[0]
    assert not torch.equal(usual, changed) and (usual - changed).abs().max() < 1  # what it is asked conditions it only


def test_6_and_7_the_preference_sees_neither_judge_nor_rationale(prepared: Any, policy: Any, batch: Reasoned) -> None:
    made = prepared(method(gamma=1.0), policy=policy, reference=policy)
    _, usual = made.loss(batch)
    other = {name: getattr(batch, name).flip(1) for name in ("judge", "judge_length", "rationale", "rationale_length")}
    _, metrics = made.loss(replace(batch, **other))
    for name in ("rewards/margins", "logps/chosen", "logps/rejected"):
        assert torch.equal(usual[name], metrics[name])
    assert not torch.equal(usual["logps/rationale"], metrics["logps/rationale"])


def test_a_flipped_label_gets_the_rationale_that_argues_for_it(prepared: Any, policy: Any, batch: Reasoned) -> None:
    made = prepared(method(gamma=1.0), policy=policy, reference=policy)
    flipped = replace(batch, label=1 - batch.label)
    asked = made._asked(flipped)
    rows = torch.arange(len(batch))
    assert torch.equal(asked.response[:, 0], batch.rationale[rows, 1 - batch.label])
    assert torch.equal(asked.prompt, batch.judge[rows, 1 - batch.label])


def test_a_label_without_a_rationale_is_refused(data: Any) -> None:
    table = data.train.pairs
    given, label = list(table.ragged["rationale"]), table.columns["label"]
    only = [row if i % 2 == label[i // 2] else row[:0] for i, row in enumerate(given)]
    table = replace(table, ragged={**table.ragged, "rationale": type(table.ragged["rationale"]).of(only)})
    assert method().collect(table, 0) is table
    turned = replace(table, columns={"label": np.where(np.arange(len(label)) == 5, 1 - label, label)})
    with pytest.raises(PrefoptError, match=r"1 of 24 recorded labels have no rationale, words-train-000005"):
        method().collect(turned, 0)


@pytest.mark.parametrize("wrong", [{"link": "log"}, {"reduce": "max"}, {"gamma": -1}], ids=str)
def test_what_is_no_setting_is_refused(wrong: dict[str, Any]) -> None:
    (key,) = wrong
    with pytest.raises(PrefoptError, match=rf"method\.{key}="):
        method(**wrong)


def test_data_without_rationales_are_refused_at_once(home: Any) -> None:
    with pytest.raises(PrefoptError, match="eats Reasoned, and dataset=words gives only"):
        run(composed(["method=rationales", "dataset=words", "model=tiny", "tracking=none", "trainer=cpu"]))


def test_prompts_to_answer_are_plain(data: Any, batch: Reasoned) -> None:
    """No rationale leaks into what the policy is tested with."""
    held_out = data.test.pairs.batch(np.arange(4))
    assert isinstance(held_out, Pairs)
    assert held_out.prompt_length.max() == 5 < batch.judge_length.min()
