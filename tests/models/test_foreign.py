"""Judges that no run has made: folders of Hugging Face, rules, and what a trained policy implies."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import prefopt.run
from prefopt.cast import cast
from prefopt.config import composed
from prefopt.datasets.data import Data
from prefopt.errors import PrefoptError
from prefopt.models.foreign import Folder, Rule
from prefopt.models.judge import Judge
from prefopt.models.scorer import Scorer
from prefopt.models.text import Tiny
from prefopt.models.tokenizer import train_tokenizer
from prefopt.run import Parts, run

TEXTS = ["good film", "bad film", "good good plot", "bad plot"] * 8
MODEL = Tiny(vocabulary=300, hidden_size=16, layers=1, heads=2)
DATA = Data(train=None, test=None, max_prompt_length=8, max_response_length=8)  # type: ignore[arg-type]
SMALL = ["dataset=bandit", "dataset.pairs=48", "dataset.test_pairs=16", "trainer=cpu", "tracking=none", "rounds=2"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(TEXTS, 300)


@pytest.fixture(scope="module")
def folders(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    places = [tmp_path_factory.mktemp(name) for name in ("a", "b")]
    for place in places:
        MODEL.reward(DATA, tokenizer, None).export(place)
    return places


@pytest.fixture
def groups(tokenizer: Any) -> Any:
    from prefopt.batch import Groups

    rows = [tokenizer.encode(text) for text in ("good film", "bad film", "bad plot", "a good plot")]
    length = torch.tensor([len(row) for row in rows]).view(2, 2)
    response = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    return Groups(
        index=torch.arange(2),
        prompt=torch.full((2, 1), 1),
        prompt_length=torch.ones(2, dtype=torch.long),
        response=response.view(2, 2, -1),
        length=length,
        mean_length=length.float().mean(),
    )


def test_a_folder_judges_as_the_model_in_it(folders: list[Path], tokenizer: Any, groups: Any) -> None:
    judge = Folder(path=str(folders[0])).judge(DATA, tokenizer)
    assert torch.equal(judge.score(groups), MODEL.reward(DATA, tokenizer, folders[0]).score(groups))


def test_several_folders_are_an_ensemble(folders: list[Path], tokenizer: Any, groups: Any) -> None:
    both = Folder(path=[str(place) for place in folders]).judge(DATA, tokenizer).score(groups)
    each = [Folder(path=str(place)).judge(DATA, tokenizer).score(groups) for place in folders]
    torch.testing.assert_close(both, (each[0] + each[1]) / 2)
    assert not torch.equal(each[0], each[1])


def test_members_of_another_tokenizer_are_refused(folders: list[Path], tokenizer: Any, tmp_path: Path) -> None:
    MODEL.reward(DATA, train_tokenizer(["quite other words"] * 8, 290), None).export(tmp_path)
    with pytest.raises(PrefoptError, match="another tokenizer") as raised:
        Folder(path=[str(folders[0]), str(tmp_path)]).judge(DATA, tokenizer)
    assert str(tmp_path) in str(raised.value)


def test_a_folder_without_a_reward_model_is_refused_at_once(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(PrefoptError, match=r"no config\.json"):
        Folder(path=str(tmp_path))
    MODEL.policy(DATA, tokenizer, None).export(tmp_path)
    with pytest.raises(PrefoptError, match="LlamaForCausalLM"):
        Folder(path=str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "no", "1": "yes"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(PrefoptError, match="2 labels"):
        Folder(path=str(tmp_path))


def test_a_folder_changed_is_another_run(folders: list[Path], tmp_path: Path, tokenizer: Any) -> None:
    before = Folder(path=[str(place) for place in folders]).checksum()
    assert before == Folder(path=[str(place) for place in folders]).checksum()
    assert before != Folder(path=str(folders[0])).checksum()


def test_a_rule_holds_or_not(tokenizer: Any, groups: Any) -> None:
    assert Rule(pattern=r"^good|a good").judge(DATA, tokenizer).score(groups).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(PrefoptError, match="pattern=\\("):
        Rule(pattern="(")


def test_a_judge_of_text_is_refused_on_an_exact_world(home: Path) -> None:
    rule = "method.needs.reward={_target_: prefopt.models.foreign.Rule, pattern: a}"
    with pytest.raises(PrefoptError, match="judges text"):
        run(composed([*SMALL, "method=grpo", "~method.needs.reward", f"+{rule}"]))


def test_a_method_that_implies_no_reward_is_refused(home: Path) -> None:
    config = composed(["method=best_of_n", "method.needs.reward.method=sft", "trainer=cpu", "tracking=none"])
    with pytest.raises(PrefoptError, match=r"method.needs.reward.method=sft has learned no reward"):
        run(config)


def test_a_trained_policy_judges_by_the_reward_that_it_implies(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """beta log pi / ref, whatever reference the asker has cached."""
    kept: dict[str, Any] = {}

    def spy(*args: Any, **more: Any) -> dict[str, Any]:
        kept.update(cast(*args, **more))
        return kept

    config = composed([*SMALL, "model=tabular", "method=gibbs", "method.needs.reward.method=dpo", "noise=none"])
    with monkeypatch.context() as patch:
        patch.setattr(prefopt.run, "cast", spy)
        run(config)
    world = Parts(config).dataset.load(None)
    batch = world.test.pairs.batch(np.arange(16))
    (trained,) = home.glob("dpo-bandit-*")
    policy = Parts(config).model.policy(world, None, trained / "policy")
    expected = 0.1 * (policy.logps(batch) - Parts(config).model.policy(world, None, None).logps(batch)).sum(-1)
    torch.testing.assert_close(kept["reward"].score(batch), expected)
    assert expected.abs().sum() > 0


def best_of_n_by(*overrides: str) -> Any:
    return run(composed([*SMALL, "model=tabular", "method=best_of_n", "noise=none", *overrides]))


def test_what_a_policy_was_trained_against_is_no_reward_that_it_has_learned(home: Path) -> None:
    with pytest.raises(PrefoptError, match="has learned no reward"):
        best_of_n_by("++method.needs.reward={method: grpo}")
    stored = best_of_n_by("++method.needs.reward={method: crm_dpo}")
    assert json.loads(stored.results.read_text())["figures"]["proxy/standardised"] > 0


def test_a_reward_model_that_has_learned_nothing_is_refused(home: Path) -> None:
    with pytest.raises(PrefoptError, match="the same reward"):
        best_of_n_by("++method.needs.reward={method: bradley_terry, optimizer.lr: 0.0}")


def test_an_implied_reward_has_a_start_that_is_kept(home: Path) -> None:
    config = ["method=best_of_n", "model.start=null", "method.needs.reward.method=dpo", "trainer=cpu"]
    with pytest.raises(PrefoptError, match="random model"):
        run(composed([*config, "noise=none", "tracking=none"]))


def test_a_judge_within_a_needed_run_is_part_of_what_a_run_is(tmp_path: Path, folders: list[Path]) -> None:
    """Other weights in its folder make it another run."""
    place = tmp_path / "judge"
    shutil.copytree(folders[0], place)
    judge = f"{{_target_: prefopt.models.foreign.Folder, path: {place}}}"
    need = f"++method.needs.policy={{method: grpo, method.needs.reward: {judge}}}"
    config = composed(["method=best_of_n", "method.needs.reward=gold", "noise=none", need])
    before = Parts(config).fingerprint()
    shutil.copy(folders[1] / "model.safetensors", place / "model.safetensors")
    assert Parts(config).fingerprint() != before


def test_log_odds_that_are_not_finite_label_nothing(home: Path) -> None:
    class Lost(Scorer):
        def score(self, groups: Any) -> Any:
            return torch.full(groups.length.shape, torch.nan)

    pairs = Parts(composed(SMALL)).dataset.load(None).train.pairs
    with pytest.raises(PrefoptError, match="not finite"):
        Judge(Lost(), temperature=1.0, noise=None, seed=0)(pairs)
