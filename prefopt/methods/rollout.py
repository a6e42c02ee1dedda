"""Own samples as tables: what `collect` returns where a method learns from what it does itself."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from prefopt.batch import Groups, Pairs, Rated
from prefopt.engine.loader import sequential
from prefopt.methods.base import Method
from prefopt.table import Ragged, Table

ROWS_AT_ONCE = 256
"""Responses that are sampled together."""

Judge = Callable[[Table], np.ndarray]
"""Labels [N] for a table of unlabelled pairs."""


def rated(method: Method, data: Table, round: int, n: int) -> Table:
    """n fresh responses to each of the round's prompts, with rewards and log-probs under the policy that drew them."""
    rows, parts = sampled(method, data, round, n)
    with torch.no_grad():
        reward = torch.cat([method.reward.score(groups) for groups in parts])
    return worth(method, data.ids[rows], parts, reward)


def worth(method: Method, ids: np.ndarray, parts: list[Groups], reward: Tensor) -> Table:
    """Samples with these rewards [N, n], and their log-probs under the policy that drew them."""
    with torch.no_grad():
        behaviour = torch.cat([method.policy.logps(groups)[groups.mask] for groups in parts])
    return table_of(Rated, ids, parts, columns={"reward": reward}, aligned={"behaviour": behaviour})


def judged(method: Method, data: Table, round: int, judge: Judge) -> Table:
    """Two fresh responses to each of the round's prompts, and the judge's label."""
    rows, parts = sampled(method, data, round, 2)
    ids = np.array([f"{id}@{round}.{place}" for place, id in enumerate(data.ids[rows])])
    table = table_of(Pairs, ids, parts, columns={"label": torch.zeros(len(ids), dtype=torch.long)}, aligned={})
    table.columns["label"][:] = judge(table)
    return table


def sampled(method: Method, data: Table, round: int, n: int) -> tuple[np.ndarray, list[Groups]]:
    """The rows of the round's prompts, and n responses to each.

    Prompts come in shuffled passes over the data, so over the rounds each comes up equally often.
    """
    count = method.per_round or len(data)
    epochs, places = np.divmod(np.arange(round * count, (round + 1) * count), len(data))
    shuffles = {epoch: np.random.default_rng([method.seed, 7, epoch]).permutation(len(data)) for epoch in set(epochs)}
    rows = np.array([shuffles[epoch][place] for epoch, place in zip(epochs, places, strict=True)])
    generator = method.generator(round, 1)
    parts = [
        method.act(prompts.to(method.device), n, generator)
        for prompts in sequential(data, max(1, ROWS_AT_ONCE // n), rows)
    ]
    return rows, parts


def joined(parts: list[Tensor]) -> Tensor:
    """Token columns [B_k, n, T_k] as one, [B_1 + B_2 + ..., n, T], zero where they are shorter."""
    width = max(part.shape[-1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[-1])) for part in parts])


def table_of(
    kind: type[Groups], ids: np.ndarray, parts: list[Groups], columns: dict[str, Tensor], aligned: dict[str, Tensor]
) -> Table:
    """Sampled groups as one table."""

    def ragged(tokens: list[Tensor], lengths: list[Tensor]) -> Ragged:
        rows = [row[:k] for part, ks in zip(tokens, lengths, strict=True) for row, k in zip(part, ks, strict=True)]
        return Ragged.of([_numpy(row) for row in rows])

    return Table(
        kind=kind,
        ids=ids,
        prompt=ragged([g.prompt for g in parts], [g.prompt_length for g in parts]),
        response=ragged([g.response.flatten(0, 1) for g in parts], [g.length.flatten() for g in parts]),
        columns={name: _numpy(values) for name, values in columns.items()},
        aligned={name: _numpy(values) for name, values in aligned.items()},
    )


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
