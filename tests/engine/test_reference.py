"""The reference cache: computed anew when and only when its log-probs would be others."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefopt.batch import Pairs, Prompts
from prefopt.engine import reference
from prefopt.engine.attention import NAME
from prefopt.engine.reference import checksum, logps, with_reference
from prefopt.models.causal import AdapterOff, CausalPolicy
from prefopt.table import Ragged, Table

PROMPT = [[1, 5, 6], [1, 7], [1, 8, 9, 10]]
RESPONSE = [[4, 2], [5, 6, 2], [7, 2], [8, 9, 2], [10, 11, 12, 2], [2]]
CPU = torch.device("cpu")


def pairs(prompt: list[list[int]] = PROMPT, response: list[list[int]] = RESPONSE, **more: Any) -> Table:
    label = {"label": np.array([0, 1, 0])}
    return Table(Pairs, np.array(["a", "b", "c"]), Ragged.of(prompt), Ragged.of(response), **{"columns": label} | more)


pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each table whose log-probs were computed, not found."""
    times: list[int] = []

    def counting(table: Table, *given: Any) -> np.ndarray:
        times.append(len(table))
        return logps(table, *given)

    monkeypatch.setattr(reference, "logps", counting)
    return times


@pytest.fixture
def policy(build: Callable[..., Any]) -> CausalPolicy:
    return CausalPolicy(build("llama"), None, max_response_length=8)


def cached(table: Table, policy: Any, precision: str = "32-true", device: Any = CPU) -> np.ndarray:
    (found,) = with_reference([table], policy, batch_size=2, device=device, precision=precision)
    return found.aligned["reference"]


def test_it_holds_the_log_probs_of_every_response_token_memory_mapped(policy: CausalPolicy) -> None:
    table = pairs()
    found, (again,) = (
        cached(table, policy),
        with_reference([table], policy, batch_size=3, device=CPU, precision="32-true"),
    )
    batch = again.batch(np.arange(3))
    assert isinstance(found, np.memmap) and found.shape == (sum(map(len, RESPONSE)),)
    assert torch.allclose(batch.reference, policy.logps(batch).detach(), rtol=1e-5, atol=1e-5)


SAME: dict[str, Callable[[Table], Table]] = {
    "labels": lambda table: replace(table, columns={"label": 1 - table.columns["label"]}),
    "names": lambda table: replace(table, ids=np.array(["x", "y", "z"])),
    "what is known of a pair": lambda table: replace(table, known={"annotator": np.array([1, 2, 3])}),
    "the kind of batch": lambda table: replace(table, kind=Prompts, columns={}),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_labels_and_names_share_it(change: Callable[[Table], Table], policy: CausalPolicy, computed: list[int]) -> None:
    assert (cached(pairs(), policy) == cached(change(pairs()), policy)).all()
    assert len(computed) == 1


OTHER_TOKENS = {
    "a prompt token": pairs([[1, 5, 7], *PROMPT[1:]]),
    "a response token": pairs(response=[[5, 2], *RESPONSE[1:]]),
    "where a prompt ends": pairs([[1, 5], [6, 1, 7], PROMPT[2]]),
    "where a response ends": pairs(response=[[4], [2, 5, 6, 2], *RESPONSE[2:]]),
    "the order of responses": pairs(response=[RESPONSE[1], RESPONSE[0], *RESPONSE[2:]]),
    "a template in front": pairs([[3, *prompt] for prompt in PROMPT]),
}


@pytest.mark.parametrize("other", OTHER_TOKENS.values(), ids=OTHER_TOKENS)
def test_other_tokens_are_computed_anew(other: Table, policy: CausalPolicy, computed: list[int]) -> None:
    cached(pairs(), policy)
    found = cached(other, policy)
    assert len(computed) == 2
    assert np.allclose(found, logps(other, policy, 2, CPU), atol=1e-6)


def other_weights(model: Any) -> None:
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] += 1e-3


def two_weights_changed_places(model: Any) -> None:
    q, k = model.model.layers[0].self_attn.q_proj.weight, model.model.layers[0].self_attn.k_proj.weight
    q.data, k.data = k.data, q.data


OTHER_MODELS: dict[str, tuple[dict[str, Any], Callable[[Any], Any]]] = {
    "a weight": ({}, other_weights),
    "two weights": ({}, two_weights_changed_places),
    "the type of the weights": ({}, lambda model: model.bfloat16()),
    "RoPE": ({"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}, lambda model: None),
    "the number of heads": ({"num_attention_heads": 4, "head_dim": 4, "num_key_value_heads": 4}, lambda model: None),
    "an epsilon": ({"rms_norm_eps": 1e-2}, lambda model: None),
    "an activation": ({"hidden_act": "gelu"}, lambda model: None),
    "how attention is computed": ({"attn_implementation": "eager"}, lambda model: None),
}


@pytest.mark.parametrize(("settings", "change"), OTHER_MODELS.values(), ids=OTHER_MODELS)
def test_another_model_is_computed_anew_though_its_weights_be_the_same(
    settings: dict[str, Any],
    change: Callable[[Any], Any],
    build: Callable[..., Any],
    policy: CausalPolicy,
    computed: list[int],
) -> None:
    other = build("llama", **settings)
    other.load_state_dict(policy.model.state_dict())
    change(other)
    cached(pairs(), policy)
    cached(pairs(), CausalPolicy(other, None, max_response_length=8))
    assert len(computed) == 2


def test_another_precision_is_computed_anew(policy: CausalPolicy, computed: list[int]) -> None:
    cached(pairs(), policy)
    cached(pairs(), policy, precision="bf16-mixed")
    assert len(computed) == 2


def test_the_key_beside_it_says_what_it_depends_on(policy: CausalPolicy, home: Path) -> None:
    cached(pairs(), policy)
    (key,) = home.glob("cache/reference-*/key.json")
    assert set(json.loads(key.read_text())) == {"weights", "form", "precision", "device", "tokens"}


def test_the_same_model_from_another_folder_and_after_longer_answers_shares_it(
    policy: CausalPolicy, tmp_path: Path, computed: list[int]
) -> None:
    from transformers import AutoModelForCausalLM

    cached(pairs(), policy)
    policy.model.save_pretrained(tmp_path / "elsewhere")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "elsewhere")
    cached(pairs(), CausalPolicy(opened, None, max_response_length=99))
    assert len(computed) == 1


def lora(model: Any, **more: Any) -> CausalPolicy:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **more))
    return CausalPolicy(adapted, None, max_response_length=8)


def test_an_adapter_that_is_switched_off_changes_nothing(build: Callable[..., Any], computed: list[int]) -> None:
    first = build("llama")
    weights = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    for seed, more in enumerate(({"r": 2}, {"r": 4, "lora_alpha": 64}, {"r": 4, "use_rslora": True})):
        model = build("llama")
        model.load_state_dict(weights)
        torch.manual_seed(seed)
        cached(pairs(), AdapterOff(lora(model, **more)))
    assert len(computed) == 1


def test_the_scale_of_an_adapter_is_no_weight_and_counts(build: Callable[..., Any], computed: list[int]) -> None:
    adapted = [CausalPolicy(build("llama with LoRA"), None, max_response_length=8) for _ in range(2)]
    adapted[1].model.load_state_dict(adapted[0].model.state_dict())
    found = [cached(pairs(), adapted[0]), cached(pairs(), adapted[1])]
    assert len(computed) == 1
    for module in adapted[1].model.modules():
        if hasattr(module, "lora_A"):
            module.set_scale("default", 3.0)
    assert checksum(adapted[0]) == checksum(adapted[1])
    found.append(cached(pairs(), adapted[1]))
    assert len(computed) == 2 and not np.allclose(found[0], found[2], atol=1e-3)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:-4]),
    "empty": lambda file: file.write_bytes(b""),
    "a bit turned": lambda file: file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 64])),
    "of another table": lambda file: np.save(file, np.zeros(3, np.float32)),
    "gone": lambda file: file.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_computed_anew(
    damage: Callable[[Path], Any], policy: CausalPolicy, computed: list[int], home: Path, capsys: Any
) -> None:
    before = np.array(cached(pairs(), policy))
    (file,) = home.glob("cache/reference-*/logps.npy")
    damage(file)
    assert (cached(pairs(), policy) == before).all()
    assert (cached(pairs(), policy) == before).all()
    assert len(computed) == 2 and "is damaged, and computed anew" in " ".join(capsys.readouterr().err.split())


def test_a_model_that_was_used_before_finds_what_it_found_when_it_was_fresh(
    policy: CausalPolicy, computed: list[int]
) -> None:
    first = cached(pairs(), policy)
    assert policy.model.config._attn_implementation == NAME
    assert (cached(pairs(), policy) == first).all() and len(computed) == 1
