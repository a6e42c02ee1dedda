"""Where language models come from: a tiny one made on the spot, or any of Hugging Face's."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from prefopt.datasets.data import Data
from prefopt.engine.attention import compile_packed
from prefopt.engine.logps import backbone
from prefopt.errors import PrefoptError
from prefopt.models.causal import CausalPolicy, RewardModel, embedding, quieten
from prefopt.models.ensemble import Shared
from prefopt.models.preference import Form, form_of
from prefopt.models.scorer import Scorer

FOREIGN_CODE = "; code that comes with a model runs only with +model.trust_remote_code=true"


class Tiny:
    """A Llama of about a million parameters from a random start, with the dataset's tokenizer or one trained on it.

    Args:
        vocabulary: tokens at most. hidden_size, layers, heads: its shape; the feed-forward layer is three times as
            wide as `hidden_size`.
    """

    world: ClassVar[str] = "text"

    def __init__(self, *, vocabulary: int = 2048, hidden_size: int = 192, layers: int = 2, heads: int = 4) -> None:
        self.vocabulary, self.hidden_size, self.layers, self.heads = vocabulary, hidden_size, layers, heads

    def tokenizer(self, dataset: Any, start: Path | None) -> Any:
        if start is not None:
            return opened_tokenizer(start)
        from prefopt.models.tokenizer import train_tokenizer

        return dataset.tokenizer() or train_tokenizer(dataset.texts(), self.vocabulary)

    def policy(self, data: Data, tokenizer: Any, start: Path | None) -> CausalPolicy:
        from transformers import LlamaForCausalLM

        model = _opened("AutoModelForCausalLM", start) if start else LlamaForCausalLM(self._config(data, tokenizer))
        return CausalPolicy(model, tokenizer, max_response_length=data.max_response_length)

    def reward(
        self, data: Data, tokenizer: Any, start: Path | None, form: Form | Shared | None = None
    ) -> RewardModel | Scorer:
        from transformers import LlamaForSequenceClassification

        form = form or form_of(start)
        labels = form.dimension if form else 1
        if start is None:
            model = LlamaForSequenceClassification(self._config(data, tokenizer, num_labels=labels))
        else:
            model = _opened("AutoModelForSequenceClassification", start, num_labels=labels)
        if form is None:
            return RewardModel(model, tokenizer)
        return form.on(RewardModel(embedding(model, form.held(start)), tokenizer), start)

    def checksum(self) -> str:
        return ""

    def _config(self, data: Data, tokenizer: Any, **more: Any) -> Any:
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            intermediate_size=3 * self.hidden_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            max_position_embeddings=2 * (data.max_prompt_length + data.max_response_length),
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **more,
        )


class HuggingFace:
    """Any causal LM of Hugging Face, with or without LoRA.

    Args:
        name: its name on the hub. path: its folder, for machines without a network; wins over `name`.
        lora: arguments of `peft.LoraConfig` (r, lora_alpha, target_modules, ...), None for full weights.
        dtype: of the weights, `float32` or `bfloat16`.
        gradient_checkpointing: recompute activations in the backward pass.
        compile: let torch compile the policy, which takes a minute and pays on a GPU.
        trust_remote_code: run code that comes with the model.
    """

    world: ClassVar[str] = "text"

    def __init__(
        self,
        *,
        name: str | None = None,
        path: str | None = None,
        lora: Mapping[str, Any] | None = None,
        dtype: str = "float32",
        gradient_checkpointing: bool = False,
        compile: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        if not (name or path):
            raise PrefoptError(
                "model.name and model.path are both empty", "name a model of the hub, or give the folder that holds one"
            )
        if path and not (Path(path) / "config.json").is_file():
            raise PrefoptError(f"model.path={path}: there is no config.json in it", "give a Hugging Face model folder")
        self.name, self.path, self.lora, self.dtype = name, path, lora, dtype
        self.gradient_checkpointing, self.compile = gradient_checkpointing, compile
        self.trust_remote_code = trust_remote_code

    def tokenizer(self, dataset: Any, start: Path | None) -> Any:
        return opened_tokenizer(start or self._source, trust_remote_code=self.trust_remote_code)

    def policy(self, data: Data, tokenizer: Any, start: Path | None) -> CausalPolicy:
        model = self._adapted(self._open("AutoModelForCausalLM", start), "CAUSAL_LM")
        if self.lora is not None:
            held_once(model, str(start or self._source))
        if self.compile:
            compile_packed(backbone(model))
        return CausalPolicy(model, tokenizer, max_response_length=data.max_response_length)

    def reward(
        self, data: Data, tokenizer: Any, start: Path | None, form: Form | Shared | None = None
    ) -> RewardModel | Scorer:
        form = form or form_of(start)
        model = self._open("AutoModelForSequenceClassification", start, num_labels=form.dimension if form else 1)
        # Transformers reads the score before the first padding token: where EOS is the padding, of the wrong token.
        padding = tokenizer.pad_token_id
        model.config.pad_token_id = None if padding == tokenizer.eos_token_id else padding
        if form is None:
            return RewardModel(self._adapted(model, "SEQ_CLS"), tokenizer)
        return form.on(RewardModel(self._adapted(embedding(model, form.held(start)), "SEQ_CLS"), tokenizer), start)

    def checksum(self) -> str:
        """Hash of every weight and config file where the model is a folder."""
        if not self.path:
            return ""
        digest = hashlib.sha256()
        for file in sorted(Path(self.path).iterdir()):
            if file.suffix in {".safetensors", ".json"}:
                with file.open("rb") as content:
                    digest.update(file.name.encode() + hashlib.file_digest(content, "sha256").digest())
        return digest.hexdigest()

    @property
    def _source(self) -> str | Path:
        return Path(self.path) if self.path else str(self.name)

    def _open(self, auto: str, start: Path | None, **more: Any) -> Any:
        dtype = getattr(torch, self.dtype)
        model = _opened(auto, start or self._source, dtype=dtype, trust_remote_code=self.trust_remote_code, **more)
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()  # it opens in evaluation mode, where nothing is recomputed
        return model

    def _adapted(self, model: Any, task: str) -> Any:
        if self.lora is None:
            return model
        from peft import LoraConfig, get_peft_model

        if self.gradient_checkpointing:
            model.enable_input_require_grads()
        return get_peft_model(model, LoraConfig(task_type=task, **self.lora))


_held: WeakValueDictionary[tuple[str, str, torch.dtype], Tensor] = WeakValueDictionary()
"""Frozen weights of models that are in use, by source, name and type."""


def held_once(model: Any, source: str) -> None:
    """Have frozen weights in common with models of the same source that were opened before, where they are the same."""
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            known = _held.get((source, name, weight.dtype))
            if known is not None and torch.equal(known, weight.to(known.device)):
                weight.data = known.data
            _held[source, name, weight.dtype] = weight


def opened_tokenizer(source: str | Path, **more: Any) -> Any:
    """The tokenizer stored at `source`, with a padding token.

    Raises PrefoptError where it has no end-of-sequence token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **more)
    except (OSError, ValueError) as error:
        raise PrefoptError(
            f"the tokenizer of {source} does not open: {str(error).splitlines()[0]}",
            "check model.name and the network, or give as model.path a folder with tokenizer.json in it" + FOREIGN_CODE,
        ) from error
    if tokenizer.eos_token_id is None:
        raise PrefoptError(
            f"the tokenizer of {source} has no EOS token, so no response could end",
            "set eos_token in its tokenizer_config.json",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _opened(auto: str, source: str | Path, **more: Any) -> Any:
    import transformers

    if isinstance(source, Path):
        quieten()
    try:
        return getattr(transformers, auto).from_pretrained(source, use_safetensors=True, **more)
    except (OSError, ValueError) as error:
        raise PrefoptError(
            f"the model {source} does not open: {str(error).splitlines()[0]}",
            "check model.name and the network, or give its folder, with model.safetensors in it, as model.path"
            + FOREIGN_CODE,
        ) from error
