"""Reward models that learn at the same time are what each would be alone, and differ where the pairs say nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prefopt.config import composed
from prefopt.errors import PrefoptError
from prefopt.methods.pairwise.robust.none import Plain
from prefopt.methods.reward.several import Several
from prefopt.run import Parts, run
from prefopt.store import Run

SMALL = [
    *("dataset=landscape", "dataset.pairs=96", "dataset.test_pairs=64", "dataset.contexts=4", "dataset.responses=50"),
    *("trainer=cpu", "tracking=none", "rounds=3", "batch_size=32", "evaluation.figures=false", "evaluation.times=1"),
]
REWARD = ["method.needs.reward.method=rm_ensemble", "++method.needs.reward.rounds=3"]

SHARED = "+method.needs.reward={method: rm_ensemble, rounds: 3, method.shared: true}"


def trained(*overrides: str) -> Run:
    return run(composed([*SMALL, "method=rm_ensemble", *overrides]))


def weights(stored: Run, member: int) -> dict[str, Any]:
    return load_file(stored.policy / str(member) / "exact.safetensors")


def figures(stored: Run) -> dict[str, float]:
    found: dict[str, float] = json.loads(stored.results.read_text())["figures"]
    return found


@pytest.mark.parametrize("clip", ["null", "0.01"])
def test_no_member_knows_of_the_others(home: Path, clip: str) -> None:
    """Of three the first two are those of two, bit for bit, clipped or not."""
    two, three = (trained(f"method.members={k}", f"clip={clip}", "noise.rate=0.25") for k in (2, 3))
    for k in (0, 1):
        ours, theirs = weights(two, k), weights(three, k)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_members_begin_differently_and_see_the_pairs_in_other_orders(home: Path) -> None:
    heads = [weights(trained("optimizer.lr=0", "method.members=3"), k)["f.head.weight"] for k in range(3)]
    assert not any(torch.equal(heads[a], heads[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    same_start = trained("model=tabular", "method.members=2", "rounds=1", "optimizer.lr=1")
    first, second = (weights(same_start, k)["f.values"] for k in (0, 1))
    assert not torch.equal(first, second)


def test_every_pair_is_seen_once_a_round_by_every_member(home: Path) -> None:
    method = Several(members=3, robust=Plain())
    config = composed([*SMALL, "method=rm_ensemble"])
    parts = Parts(config)
    world = parts.dataset.load(None)
    data = world.train.pairs
    method.prepare(
        {"reward": parts.model.reward(world, None, None)},
        optimizer=torch.optim.SGD,
        schedule=lambda _: 1.0,
        micro_batch_size=None,
        clip=None,
        seed=0,
        data=data,
    )
    batches = [data.batch(torch.arange(32 * k, 32 * k + 32).numpy()) for k in range(3)]
    for k in range(3):
        seen = torch.cat([method._seen(k, batch).index for batch in batches])  # type: ignore[arg-type]
        assert seen.sort().values.tolist() == list(range(96))
        assert (seen.tolist() == list(range(96))) == (k == 0)
    assert method.eval()._seen(1, batches[0]) is batches[0]  # type: ignore[arg-type, comparison-overlap]


def test_heads_on_one_backbone_learn_apart_and_judge_again_as_they_did(home: Path) -> None:
    """One folder holds them all, and a cautious judge is made of them as of any members."""
    stored = trained("method.shared=true", "method.members=3")
    held = load_file(stored.policy / "exact.safetensors")
    head = held["f.head.weight"]
    assert head.shape[0] == 3 and not any(torch.equal(head[a], head[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert held["f.trunk.0.weight"].shape == (32, 16), "one backbone"
    assert figures(stored)["eval/rewards/accuracies"] > 0.6
    rewards = [
        figures(run(composed([*SMALL, "method=gibbs", f"method/aggregate={way}", "~method.needs.reward", SHARED])))[
            "gold/reward"
        ]
        for way in ("mean", "worst_case")
    ]
    assert rewards[0] != rewards[1]


def test_a_cautious_judge_is_another_judge_of_the_same_models(home: Path) -> None:
    """One ensemble is trained, and each way to make its members one gives another policy."""
    policies = [
        figures(run(composed([*SMALL, "method=gibbs", f"method/aggregate={way}", *REWARD])))["gold/reward"]
        for way in ("mean", "worst_case", "uncertainty_weighted")
    ]
    assert len(set(policies)) == 3
    assert len(list(home.glob("rm_ensemble-*"))) == 1


def test_uncertainty_that_costs_nothing_is_the_mean(home: Path) -> None:
    free = ["method/aggregate=uncertainty_weighted", "method.aggregate.lam=0"]
    mean, zero = (figures(run(composed([*SMALL, "method=gibbs", *how, *REWARD]))) for how in ([], free))
    assert mean["gold/reward"] == zero["gold/reward"]


def test_members_that_say_the_same_of_all_cannot_judge(home: Path) -> None:
    """In a game all features are zero, so that a network of them knows no two responses apart."""
    game = ["dataset=game", "model=mlp", "trainer=cpu", "tracking=none", "method=gibbs", "dataset.pairs=60"]
    with pytest.raises(PrefoptError, match="the same reward"):
        run(composed([*game, *REWARD]))


def test_an_ensemble_has_members() -> None:
    with pytest.raises(PrefoptError, match=r"method.members=0"):
        Several(members=0, robust=Plain())
