"""Models of Hugging Face from local folders: whole runs with every kind of reference, and exports that open alone."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prefopt import store
from prefopt.batch import Pairs
from prefopt.config import composed
from prefopt.errors import PrefoptError
from prefopt.evaluation import figures
from prefopt.models.text import HuggingFace
from prefopt.models.tokenizer import train_tokenizer
from prefopt.run import record, run
from prefopt.tracking.events import EVENTS, read

SMALL = [
    *("dataset=reviews", "dataset.pairs=24", "dataset.demonstrations=32", "dataset.test_pairs=8"),
    *("evaluation.prompts=2", "evaluation.times=1", "rounds=2", "batch_size=8", "optimizer.lr=3e-3"),
    *("tracking=none", "trainer=cpu", "trainer.log_every=1"),
]
LORA = ["model.lora={r: 4, lora_alpha: 8, lora_dropout: 0.1, target_modules: all-linear}"]


@pytest.fixture(autouse=True, scope="module")
def undrawn() -> Iterator[None]:
    """No figures: other tests draw."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("learning_curves", "margin_histogram"):
            patch.setattr(figures, name, lambda *_: [])
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model folders by architecture, as a hub would give them; GPT-2's tokenizer has no padding token, as the real."""
    from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

    root = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer(["The soup was very good.", "I did not like the film at all."] * 50, 300)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    gpt2 = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=256, **ids)
    qwen2 = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        **ids,
    )
    GPT2LMHeadModel(gpt2).save_pretrained(root / "gpt2")
    Qwen2ForCausalLM(qwen2).save_pretrained(root / "qwen2")
    tokenizer.save_pretrained(root / "qwen2")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(root / "gpt2")
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home, so that runs that need the same SFT stage share it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFOPT_HOME", str(tmp_path_factory.mktemp("home")))
        yield store.home()


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The methods of the runs that end, in order."""
    methods: list[Any] = []

    def recording(parts: Any, *rest: Any) -> Any:
        methods.append(parts.method)
        return record(parts, *rest)

    monkeypatch.setattr("prefopt.run.record", recording)
    return methods


def sent(folder: Path | None, *overrides: str) -> store.Run:
    model = ["model=tiny", "model.hidden_size=32", "model.layers=1", "model.vocabulary=300"]
    return run(composed([*SMALL, *(model if folder is None else ["model=hf", f"model.path={folder}"]), *overrides]))


def losses(stored: store.Run) -> list[float]:
    return [event.metrics["loss"] for event in read(stored.folder / EVENTS) if "loss" in event.metrics]


def pairs_of(tokens: int) -> Pairs:
    """Four pairs of different lengths over a vocabulary of `tokens`."""
    generator = torch.Generator().manual_seed(1)
    prompt_length, length = torch.tensor([3, 5, 1, 4]), torch.tensor([[2, 6], [4, 4], [1, 3], [5, 2]])
    return Pairs(
        index=torch.arange(4),
        prompt=torch.randint(3, tokens, (4, 5), generator=generator) * (torch.arange(5) < prompt_length[:, None]),
        prompt_length=prompt_length,
        response=torch.randint(3, tokens, (4, 2, 6), generator=generator) * (torch.arange(6) < length[..., None]),
        length=length,
        mean_length=length.float().mean(),
        label=torch.zeros(4, dtype=torch.long),
    )


def sequences(groups: Pairs) -> Iterator[tuple[int, int, Tensor, int]]:
    """Row, side, the tokens of prompt and response [1, L], and the tokens of the prompt."""
    for i in range(len(groups)):
        for j in range(groups.n):
            prompt = groups.prompt[i, : groups.prompt_length[i]]
            yield i, j, torch.cat([prompt, groups.response[i, j, : groups.length[i, j]]])[None], len(prompt)


@torch.no_grad()
def logps_alone(folder: Path, groups: Pairs, **more: Any) -> Tensor:
    """[B, n] summed log-probs by nothing but transformers, one sequence at a time."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, **more).eval()
    assert AutoTokenizer.from_pretrained(folder).eos_token_id == 2
    found = torch.zeros(groups.length.shape)
    for i, j, tokens, prompt in sequences(groups):
        logps = model(tokens).logits.float().log_softmax(-1)[0, :-1].gather(-1, tokens[0, 1:, None])[:, 0]
        found[i, j] = logps[prompt - 1 :].sum()
    return found


@torch.no_grad()
def test_the_embedded_model_exports_to_a_folder_that_transformers_opens_alone(
    shared_home: Path, trained: list[Any]
) -> None:
    stored, groups = sent(None, "method=rdpo"), pairs_of(300)
    torch.testing.assert_close(logps_alone(stored.policy, groups), trained[-1].policy.logps(groups).sum(-1))
    assert not list(stored.policy.glob("*.bin"))


@pytest.mark.parametrize("lora", [[], LORA], ids=["full", "lora"])
@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
@torch.no_grad()
def test_every_kind_of_reference_starts_at_log_2_and_trains_alike_and_the_export_opens_alone(
    name: str, lora: list[str], folders: dict[str, Path], shared_home: Path, trained: list[Any]
) -> None:
    groups, curves = pairs_of(300), []
    for reference in ["cached", "copy", *(["adapter"] if lora else [])]:
        stored = sent(folders[name], "method=rdpo", f"method.needs.reference={reference}", *lora)
        curve = losses(stored)
        assert curve[0] == pytest.approx(math.log(2), abs=1e-5)
        assert len(curve) == 6 and abs(curve[-1] - curve[0]) > 1e-4, "it learns"
        curves.append(curve)
        policy = trained[-1].policy
        torch.testing.assert_close(logps_alone(stored.policy, groups), policy.logps(groups).sum(-1))
        assert (stored.policy / "adapter" / "adapter_model.safetensors").exists() == bool(lora)
        assert not (stored.policy / "adapter_config.json").exists()
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], rel=1e-4)


@pytest.mark.parametrize("lora", [[], LORA], ids=["full", "lora"])
@torch.no_grad()
def test_an_adapter_beside_its_base_is_the_export(
    lora: list[str], folders: dict[str, Path], shared_home: Path, trained: list[Any]
) -> None:
    stored, groups = sent(folders["qwen2"], "method=dpo", "model.start=null", *lora), pairs_of(300)
    merged = logps_alone(stored.policy, groups)
    assert not torch.allclose(merged, logps_alone(folders["qwen2"], groups), atol=1e-2)
    if lora:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(folders["qwen2"])
        adapted = PeftModel.from_pretrained(base, stored.policy / "adapter").merge_and_unload()
        adapted.save_pretrained(shared_home / "by-hand")
        shutil.copy(folders["qwen2"] / "tokenizer.json", shared_home / "by-hand")
        shutil.copy(folders["qwen2"] / "tokenizer_config.json", shared_home / "by-hand")
        torch.testing.assert_close(logps_alone(shared_home / "by-hand", groups), merged)


@torch.no_grad()
def test_bfloat16_weights_train_and_export_as_they_are(
    folders: dict[str, Path], shared_home: Path, trained: list[Any]
) -> None:
    stored, groups = sent(folders["qwen2"], "method=rdpo", "model.dtype=bfloat16", *LORA), pairs_of(300)
    assert json.loads((stored.policy / "config.json").read_text())["dtype"] == "bfloat16"
    assert losses(stored)[0] == pytest.approx(math.log(2), abs=1e-2)
    ours = trained[-1].policy.logps(groups).sum(-1)
    torch.testing.assert_close(logps_alone(stored.policy, groups, dtype="bfloat16"), ours, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("lora", [[], LORA], ids=["full", "lora"])
def test_gradient_checkpointing_changes_no_number(
    lora: list[str], folders: dict[str, Path], shared_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.qwen2 import modeling_qwen2

    calls = []
    forward = modeling_qwen2.Qwen2MLP.forward
    plain = sent(folders["qwen2"], "method=dpo", "model.start=null", *lora)

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(torch.is_grad_enabled())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(modeling_qwen2.Qwen2MLP, "forward", counted)
    saving = sent(folders["qwen2"], "method=dpo", "model.start=null", "model.gradient_checkpointing=true", *lora)
    assert calls.count(True) >= 2 * 2 * 6, "each of 2 layers runs twice in each of 6 steps"
    assert losses(saving) == pytest.approx(losses(plain), rel=1e-5)


@pytest.mark.parametrize("lora", [[], LORA], ids=["full", "lora"])
@pytest.mark.parametrize("name", ["tiny", "gpt2", "qwen2"])
@torch.no_grad()
def test_a_reward_model_exports_to_a_folder_that_gives_the_same_scores(
    name: str, lora: list[str], folders: dict[str, Path], shared_home: Path, trained: list[Any]
) -> None:
    from transformers import AutoModelForSequenceClassification

    if name == "tiny" and lora:
        lora = ["seed=1"]
    stored, groups = sent(folders.get(name), "method=bradley_terry", *lora), pairs_of(300)
    groups.response[0, 0, 1] = 2  # EOS, which is GPT-2's padding token
    model = AutoModelForSequenceClassification.from_pretrained(stored.policy).eval()
    alone = torch.zeros(groups.length.shape)
    for i, j, tokens, _ in sequences(groups):
        alone[i, j] = model(tokens).logits[0, 0]
    torch.testing.assert_close(alone, trained[-1].reward.score(groups))
    assert (stored.policy / "adapter").exists() == (name != "tiny" and bool(lora))


def test_the_reference_cannot_be_an_adapter_that_is_not_there(folders: dict[str, Path], shared_home: Path) -> None:
    with pytest.raises(PrefoptError, match="reference=adapter, but the model has no adapter"):
        sent(folders["gpt2"], "method=rdpo", "model.start=null", "method.needs.reference=adapter")


@pytest.fixture
def broken(folders: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(folders["qwen2"], tmp_path / "model")


def test_a_tokenizer_without_eos_is_refused(broken: Path, home: Path) -> None:
    config = json.loads((broken / "tokenizer_config.json").read_text())
    (broken / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": None}))
    with pytest.raises(PrefoptError) as refused:
        sent(broken, "method=rdpo", "model.start=null")
    assert f"the tokenizer of {broken} has no EOS token" in refused.value.what
    assert "tokenizer_config.json" in refused.value.mend


def test_a_folder_with_pickled_weights_only_is_refused(broken: Path, home: Path) -> None:
    (broken / "model.safetensors").unlink()
    torch.save({}, broken / "pytorch_model.bin")
    with pytest.raises(PrefoptError) as refused:
        sent(broken, "method=rdpo", "model.start=null")
    assert f"the model {broken} does not open" in refused.value.what
    assert "model.safetensors" in refused.value.mend


def test_a_folder_without_a_tokenizer_is_refused(broken: Path, home: Path) -> None:
    for file in broken.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(PrefoptError, match="tokenizer"):
        sent(broken, "method=rdpo", "model.start=null")


def test_code_that_comes_with_a_model_is_not_run_unless_asked(broken: Path, home: Path) -> None:
    assert not composed(["model=hf", f"model.path={broken}"]).model.get("trust_remote_code")
    assert HuggingFace(path=str(broken)).trust_remote_code is False
    config = json.loads((broken / "config.json").read_text()) | {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"},
    }
    (broken / "config.json").write_text(json.dumps(config))
    (broken / "mine.py").write_text(f"import pathlib; pathlib.Path({str(broken / 'canary')!r}).touch()")
    with pytest.raises(PrefoptError, match="contains custom code"):
        sent(broken, "method=rdpo", "model.start=null")
    assert not (broken / "canary").exists()


def test_a_path_that_is_no_model_is_refused(tmp_path: Path, home: Path) -> None:
    with pytest.raises(PrefoptError, match=r"there is no config\.json in it"):
        sent(tmp_path, "method=rdpo")
