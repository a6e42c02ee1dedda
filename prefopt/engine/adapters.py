"""Several causal LMs that are one frozen transformer with a low-rank adapter each, in one forward pass."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prefopt.batch import Groups
from prefopt.engine.attention import compiled, laid_out, states
from prefopt.engine.head import selected
from prefopt.engine.layout import Packed, in_rows
from prefopt.engine.logps import backbone, spread


class Adapters:
    """K models that are alike but for the weights of their adapters.

    Adapters of one layer lie in one tensor, of which the models' own weights and gradients are views from now on: what
    changes one changes the other. Raises ValueError for models that are more than a transformer with such adapters.
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
        """What `token_logps` of the members is on a batch each. Raises ValueError where these cannot be packed."""
        batch, device = joined(batches), self.layers[0].scaling.device
        where = laid_out(backbone(self.models[0]), batch.to(device))
        if not isinstance(where, Packed):
            raise ValueError("its transformer does not understand packed groups")
        tokens = [int(one.prompt_length.sum() + one.length.sum()) for one in batches]
        where = in_rows(where, tokens)
        rows = None if len(members) == len(self.models) else torch.tensor(members, device=device)
        for layer in self.layers:
            layer.rows = rows
        hidden = states(self.inner, where).last_hidden_state.flatten(0, 1).index_select(0, where.before)
        found = spread(selected(self.models[0], hidden, where.tokens.flatten()[where.own]), batch.to(device))
        parts = found.split([len(one) for one in batches])
        return [part[..., : one.response.shape[-1]] for part, one in zip(parts, batches, strict=True)]


class Adapted(nn.Module):
    """A linear layer and its adapters A [K, r, in] and B [K, out, r], each for a row of [K, L, in].

    rows: [members] the adapters of the rows that are given; None where all are.
    """

    rows: Tensor | None = None

    def __init__(self, layers: Sequence[Any]) -> None:
        super().__init__()
        self.base = layers[0].base_layer
        names = [layer.active_adapters[0] for layer in layers]
        self.A, self.B = (
            _one([getattr(layer, part)[name].weight for layer, name in zip(layers, names, strict=True)])
            for part in ("lora_A", "lora_B")
        )
        scaling = [layer.scaling[name] for layer, name in zip(layers, names, strict=True)]
        self.scaling = torch.tensor(scaling, device=self.A.device)[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        each = (self.A, self.B, self.scaling)
        A, B, scaling = each if self.rows is None else (part.index_select(0, self.rows) for part in each)
        out: Tensor = self.base(x)
        low = torch.bmm(x.to(A.dtype), A.transpose(1, 2)) * scaling
        return (out + torch.bmm(low, B.transpose(1, 2))).to(out.dtype)


def _one(weights: Sequence[nn.Parameter]) -> nn.Parameter:
    """[K, ...] all of them; they and their gradients become views of it."""
    whole = nn.Parameter(torch.stack([weight.detach() for weight in weights]))
    whole.grad = torch.zeros_like(whole)
    for k, weight in enumerate(weights):
        weight.data, weight.grad = whole.data[k], whole.grad[k]
    return whole


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
