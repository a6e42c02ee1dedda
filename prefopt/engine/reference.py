"""Reference log-probs, computed once for a whole sweep: no label, noise, method or seed changes them."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prefopt.engine.loader import sequential
from prefopt.progress import track
from prefopt.store import cached
from prefopt.table import Table


def with_reference(table: Table, policy: Any, *, batch_size: int, device: Any, precision: str) -> Table:
    """The table with the policy's log-probs of its responses, from the cache where they are there.

    They depend on the weights, the tokens and the precision, and so does their key.
    """
    key = {"weights": checksum(policy), "tokens": table.checksum(), "precision": precision}

    def compute(folder: Path) -> None:
        np.save(folder / "logps.npy", logps(table, policy, batch_size, device))

    folder = cached("reference", key, compute)
    return replace(table, aligned={**table.aligned, "reference": np.load(folder / "logps.npy", mmap_mode="r")})


@torch.no_grad()
def logps(table: Table, policy: Any, batch_size: int, device: Any) -> np.ndarray:
    """[response tokens] log-probs in nats, in the table's order; computed in the order of length."""
    batches = sequential(table, batch_size, np.argsort(table.lengths, kind="stable"))
    places, values = [], []
    for batch in track(batches, "reference log-probs", -(-len(table) // batch_size)):
        rows = (batch.index[:, None] * table.n + torch.arange(table.n)).flatten().numpy()
        moved = batch.to(device)
        places.append(table.response.places(rows))
        values.append(policy.logps(moved)[moved.mask].cpu())
    found = torch.cat(values).numpy()
    found[np.concatenate(places)] = found.copy()
    return found


def checksum(model: Any) -> str:
    """Hash of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in {**model.state_dict(), **dict(model.named_buffers())}.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
