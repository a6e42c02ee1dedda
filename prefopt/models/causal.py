"""Language models as policies and as reward models, on transformers."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prefopt.batch import Groups
from prefopt.engine import laws
from prefopt.engine.attention import NAME
from prefopt.engine.head import logits
from prefopt.engine.logps import (
    backbone,
    last_states,
    pooled_states,
    response_states,
    spread,
    token_collisions,
    token_logps,
)
from prefopt.engine.sampling import sample
from prefopt.errors import PrefoptError
from prefopt.models.scorer import Scorer

UNUSED = frozenset({"_name_or_path", "transformers_version", "architectures", "dtype", "use_cache"})
"""Keys of a transformers configuration that change no log-prob: dtypes are those of the weights themselves."""


class CausalPolicy(nn.Module):
    """A transformers causal LM, with or without adapters."""

    model: Any

    def __init__(self, model: Any, tokenizer: Any, *, max_response_length: int) -> None:
        super().__init__()
        self.model = without_dropout(model)
        self.tokenizer = tokenizer
        self.max_response_length = max_response_length

    def logps(self, groups: Groups) -> Tensor:
        return token_logps(self.model, groups)

    @property
    def shape(self) -> tuple[int, int]:
        """How many blocks it has, and the width of its hidden states."""
        return self.model.config.num_hidden_layers, self.model.config.hidden_size

    def states(self, groups: Groups, *, last: bool = False) -> Tensor:
        """[blocks, M, d] hidden states that predict the M response tokens, see `laws.response_states`."""
        return laws.response_states(self.model, groups, last=last)

    def law(self, states: Tensor) -> Tensor:
        """[M, V] logits of the next token from the last block's [M, d]."""
        return logits(self.model, states)

    def activations(self, groups: Groups) -> Tensor:
        """[sites, M] mean activations, see `laws.activations`."""
        return laws.activations(self.model, groups)

    def collisions(self, groups: Groups) -> Tensor:
        return token_collisions(self.model, groups)

    @property
    def width(self) -> int:
        """Of its states."""
        return int(self.model.config.hidden_size)

    def pooled(self, groups: Groups) -> Tensor:
        """[B, n, width] mean of the last layer's states over the tokens of each response."""
        return pooled_states(self.model, groups)

    def sample(self, prompts: Groups, n: int, generator: torch.Generator | None = None) -> Groups:
        was_training = self.model.training
        self.model.eval()
        groups = sample(
            self.model,
            prompts,
            n,
            max_length=self.max_response_length,
            eos=self.tokenizer.eos_token_id,
            generator=generator,
        )
        self.model.train(was_training)
        return groups

    def finished(self, groups: Groups) -> Tensor:
        last = groups.response.gather(-1, (groups.length - 1)[..., None])[..., 0]
        return last == self.tokenizer.eos_token_id

    def critic(self) -> "Critic":
        return Critic(copy.deepcopy(backbone(self.model)), self.width)

    def export(self, folder: Path) -> None:
        """Write a folder that `AutoModelForCausalLM.from_pretrained` opens: adapters are merged into it and also
        kept beside, in `adapter/`."""
        exported(self.model, self.tokenizer, folder)

    @property
    def form(self) -> dict[str, Any]:
        """The model's class and configuration, and by how much each adapter is scaled, which no weight says."""
        layers = {name: module.scaling for name, module in self.model.named_modules() if hasattr(module, "lora_A")}
        return {**_form(self.model), "scaling": {name: dict(scaling) for name, scaling in layers.items()}}


class Critic(nn.Module):
    """What is to be expected before each token: a linear head, zero at the start and in float32 whatever the precision,
    on a trunk of its own."""

    def __init__(self, trunk: Any, width: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(width, 1, device=trunk.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, groups: Groups) -> Tensor:
        states, _ = response_states(self.trunk, groups)
        with torch.autocast(states.device.type, enabled=False):
            return spread(self.head(states.float())[:, 0], groups)


class RewardModel(nn.Module, Scorer):
    """A transformers sequence classifier, read at the last token of prompt and response: its one label is the reward,
    and where it has several they embed the response."""

    model: Any

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model = without_dropout(model)
        self.tokenizer = tokenizer

    def score(self, groups: Groups) -> Tensor:
        return self.embedded(groups)[0][..., 0]

    @property
    def width(self) -> int:
        """Of its states."""
        return int(self.model.config.hidden_size)

    def embedded(self, groups: Groups) -> tuple[Tensor, Tensor]:
        """[B, n, labels] of the responses, and [B, d] states at the last token of each prompt."""
        inner = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        last, asked = last_states(self.model, groups)
        return inner.score(last).float().view(*groups.length.shape, -1), asked

    @torch.no_grad()
    def redraw(self, generator: torch.Generator) -> None:
        """Draw its head anew, as wide as a reward model's is usual to be: N(0, 1 / (d + 1))."""
        inner = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        heads = [part for part in inner.score.modules() if isinstance(part, nn.Linear)]
        for head in heads:
            head.weight.normal_(std=(head.in_features + 1) ** -0.5, generator=generator)

    def export(self, folder: Path) -> None:
        """Write a folder that `AutoModelForSequenceClassification.from_pretrained` opens."""
        exported(self.model, self.tokenizer, folder)


class AdapterOff:
    """The reference as the policy with its adapter switched off: no second copy of the weights.

    It is the policy's start only because adapters of an earlier stage were merged into the base when it was loaded.
    """

    def __init__(self, policy: CausalPolicy) -> None:
        if not hasattr(policy.model, "disable_adapter"):
            raise PrefoptError(
                "method.needs.reference=adapter, but the model has no adapter",
                "give the model one (model.lora.r=16) or use method.needs.reference=cached",
            )
        self.policy = policy

    @torch.no_grad()
    def logps(self, groups: Groups) -> Tensor:
        with self.policy.model.disable_adapter():
            return self.policy.logps(groups)

    @property
    def shape(self) -> tuple[int, int]:
        return self.policy.shape

    @torch.no_grad()
    def states(self, groups: Groups) -> Tensor:
        with self.policy.model.disable_adapter():
            return self.policy.states(groups)

    @torch.no_grad()
    def law(self, states: Tensor) -> Tensor:
        with self.policy.model.disable_adapter():
            return self.policy.law(states)

    def activations(self, groups: Groups) -> Tensor:
        with self.policy.model.disable_adapter():
            return self.policy.activations(groups)

    def sample(self, prompts: Groups, n: int, generator: torch.Generator | None = None) -> Groups:
        with self.policy.model.disable_adapter():
            return self.policy.sample(prompts, n, generator)

    @property
    def form(self) -> dict[str, Any]:
        return _form(self.policy.model)

    def state_dict(self) -> dict[str, Tensor]:
        """The weights that it is made of."""
        return {name: tensor for name, tensor in self.policy.state_dict().items() if "lora_" not in name}

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        return self.policy.named_buffers()


def _form(model: Any) -> dict[str, Any]:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = {key: value for key, value in inner.config.to_dict().items() if key not in UNUSED}
    attention = inner.config._attn_implementation.replace(NAME, "sdpa")  # which ours stands in for once it is used
    return {"class": type(inner).__name__, "attention": attention, "config": config}


def embedding(model: Any, held: bool) -> Any:
    """The same sequence classifier; its head is made small, as that of GPM, where it was not held by a folder."""
    if not held:
        nn.init.normal_(model.score.weight, std=1 / (model.score.in_features + 1))
    return model


def frozen_copy(policy: nn.Module) -> Any:
    """A copy that never changes."""
    return copy.deepcopy(policy).requires_grad_(False).eval()


def without_dropout(model: nn.Module) -> nn.Module:
    """The same model with every dropout rate at zero: log-probs of policy and reference must be comparable."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "attention_dropout", None), float):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010
    return model


def quieten() -> None:
    """No bars for local files, which take a moment, and no report that the head of a new reward model is new."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def exported(model: Any, tokenizer: Any, folder: Path) -> None:
    quieten()
    if hasattr(model, "merge_and_unload"):
        model.save_pretrained(folder / "adapter")
        model = copy.deepcopy(model).merge_and_unload()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
