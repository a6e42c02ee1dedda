"""Small causal LMs of several architectures, and groups of ragged prompts and responses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import settings

from prefopt.batch import Groups

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

VOCABULARY = 23
SMALL = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SHAPE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def llama(**more: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SMALL | SHAPE | {"max_position_embeddings": 64} | more))


def gpt2(**more: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(**SMALL | {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64} | more))


def gpt_neox(**more: Any) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    return GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL | SHAPE | {"max_position_embeddings": 64} | more))


def qwen2(**more: Any) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = {"num_key_value_heads": 1, "max_position_embeddings": 64, "tie_word_embeddings": True}
    return Qwen2ForCausalLM(Qwen2Config(**SMALL | SHAPE | shape | more))


def llama_with_lora(**more: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(llama(**more), LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.2)
    return model


ARCHITECTURES = {"llama": llama, "gpt2": gpt2, "gpt_neox": gpt_neox, "qwen2": qwen2, "llama with LoRA": llama_with_lora}


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    """A model of this architecture, in evaluation mode, with weights large enough that its laws are far from flat."""

    def make(architecture: str, **more: Any) -> Any:
        torch.manual_seed(5)
        model = ARCHITECTURES[architecture](initializer_range=0.4, **more)
        return model.eval()

    return make


@pytest.fixture(scope="session", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, build: Callable[..., Any]) -> Any:
    return build(request.param)


@pytest.fixture(scope="session")
def groups_of() -> Callable[..., Groups]:
    """Groups with these prompt lengths [B] and response lengths [B, n], and tokens at random."""

    def make(prompt_length: Any, length: Any, seed: int = 0, vocabulary: int = VOCABULARY) -> Groups:
        draw = torch.Generator().manual_seed(seed)
        prompt_length, length = torch.as_tensor(prompt_length), torch.as_tensor(length)
        B, n = length.shape
        P, T = int(prompt_length.max()), int(length.max()) if n else 0
        prompt = torch.randint(1, vocabulary, (B, P), generator=draw)
        response = torch.randint(1, vocabulary, (B, n, T), generator=draw)
        return Groups(
            index=torch.arange(B),
            prompt=prompt * (torch.arange(P) < prompt_length[:, None]),
            prompt_length=prompt_length,
            response=response * (torch.arange(T) < length[..., None]),
            length=length,
            mean_length=length.float().mean() if n else torch.tensor(0.0),
        )

    return make
