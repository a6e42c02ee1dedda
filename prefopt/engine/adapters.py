"""Several causal LMs that are one frozen transformer with a low-rank adapter each, in one forward pass."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prefopt.batch import Groups
from prefopt.engine.attention import compiled, laid_out, states
from prefopt.engine.head import selected
from prefopt.engine.layout import Packed
from prefopt.engine.logps import backbone, spread


class Adapters:
    """K models that are alike but for the weights of their adapters.

    Raises ValueError for models that are more than a transformer with plain low-rank adapters.
    """

    def __init__(self, models: Sequence[Any]) -> None:
        self.models = models
        inner = backbone(models[0])
        if compiled(inner):
            raise ValueError("torch compiles it")
        shared = {id(part): part for part in (*inner.parameters(), *inner.buffers(), inner.config)}
        self.inner = copy.deepcopy(inner, shared)
        self.layers = []
        for name, *layers in zip(adapted(models[0]), *(adapted(model).values() for model in models), strict=True):
            self.layers.append(Adapted(layers))
            self.inner.set_submodule(name, self.layers[-1])

    def logps(self, batches: Sequence[Groups], members: Sequence[int]) -> list[Tensor]:
        """What `token_logps` of each of these members is on its batch."""
        whole = joined(batches).to(self.models[0].device)
        where = laid_out(backbone(self.models[0]), whole)
        if isinstance(where, Packed):
            tokens = [int(batch.prompt_length.sum() + batch.length.sum()) for batch in batches]
        else:
            tokens = [batch.length.numel() * where.tokens.shape[-1] for batch in batches]
        for layer in self.layers:
            layer.parts = tuple(zip(members, tokens, strict=True))
        hidden = states(self.inner, where).last_hidden_state.flatten(0, 1).index_select(0, where.before)
        found = spread(selected(self.models[0], hidden, where.tokens.flatten()[where.own]), whole)
        each = found.split([len(batch) for batch in batches])
        return [logps[..., : batch.response.shape[-1]] for logps, batch in zip(each, batches, strict=True)]


class Adapted(nn.Module):
    """A linear layer with the adapters of K models. parts: whose the tokens are that it is given, and how many."""

    parts: tuple[tuple[int, int], ...] = ()

    def __init__(self, layers: Sequence[Any]) -> None:
        super().__init__()
        self.base = layers[0].base_layer
        names = [layer.active_adapters[0] for layer in layers]
        self.low = nn.ModuleList([layer.lora_A[name] for layer, name in zip(layers, names, strict=True)])
        self.high = nn.ModuleList([layer.lora_B[name] for layer, name in zip(layers, names, strict=True)])
        self.scaling = [layer.scaling[name] for layer, name in zip(layers, names, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        tokens = x.to(next(self.low.parameters()).dtype).flatten(0, -2).split([count for _, count in self.parts])
        more = [
            self.high[k](self.low[k](own)) * self.scaling[k] for (k, _), own in zip(self.parts, tokens, strict=True)
        ]
        return (out + torch.cat(more).view(out.shape)).to(out.dtype)


def adapted(model: Any) -> dict[str, Any]:
    """The layers with an adapter, by name. Raises ValueError where more is trained than plain low-rank adapters."""
    from peft.tuners.lora import Linear

    layers = {name: layer for name, layer in backbone(model).named_modules() if type(layer) is Linear}
    if not layers:
        raise ValueError("it has no adapter")
    plain = {
        id(part[layer.active_adapters[0]].weight) for layer in layers.values() for part in (layer.lora_A, layer.lora_B)
    }
    more = [name for name, weight in model.named_parameters() if weight.requires_grad and id(weight) not in plain]
    if more or any(len(layer.active_adapters) > 1 or layer.merged or layer.lora_variant for layer in layers.values()):
        raise ValueError(f"its adapter is no plain LoRA{f': it trains {more[0]}' if more else ''}")
    return layers


def joined(batches: Sequence[Groups]) -> Groups:
    """The groups of all batches, one batch after the other."""
    P = max(batch.prompt.shape[-1] for batch in batches)
    T = max(batch.response.shape[-1] for batch in batches)

    def padded(tokens: Tensor, width: int) -> Tensor:
        return nn.functional.pad(tokens, (0, width - tokens.shape[-1]))

    return Groups(
        index=torch.cat([batch.index for batch in batches]),
        prompt=torch.cat([padded(batch.prompt, P) for batch in batches]),
        prompt_length=torch.cat([batch.prompt_length for batch in batches]),
        response=torch.cat([padded(batch.response, T) for batch in batches]),
        length=torch.cat([batch.length for batch in batches]),
        mean_length=batches[0].mean_length,
    )
