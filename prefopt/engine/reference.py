"""Reference log-probs, computed once for a whole sweep: no label, noise, method or seed changes them."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prefopt.engine.loader import sequential
from prefopt.progress import say, track
from prefopt.store import cached
from prefopt.table import Table

LOGPS, DIGEST = "logps.npy", "logps.sha256"


def with_reference(
    tables: Sequence[Table], policy: Any, *, batch_size: int, device: Any, precision: str
) -> list[Table]:
    """The tables with the policy's log-probs of their responses, memory-mapped from the cache.

    They depend on the weights, on what the model does with them, on the tokens, on the precision and on the kind of
    device, and so does their key. A damaged cache is computed anew.
    """
    model = {"weights": checksum(policy), "form": policy.form, "precision": precision, "device": str(device.type)}
    return [_with_reference(table, policy, model, batch_size, device) for table in tables]


def _with_reference(table: Table, policy: Any, model: dict[str, Any], batch_size: int, device: Any) -> Table:
    def compute(folder: Path) -> None:
        if (damaged := folder.with_suffix("")).exists():
            say(f"{damaged} is damaged, and computed anew", "yellow")
        np.save(folder / LOGPS, logps(table, policy, batch_size, device))
        (folder / DIGEST).write_text(_digest(folder / LOGPS))

    folder = cached("reference", {**model, "tokens": table.checksum()}, compute, _sound)
    return replace(table, aligned={**table.aligned, "reference": np.load(folder / LOGPS, mmap_mode="r")})


def _sound(folder: Path) -> bool:
    """Whether what is in the cache is what was computed."""
    with suppress(OSError):  # another process may be mending it
        return _digest(folder / LOGPS) == (folder / DIGEST).read_text()
    return False


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


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
    """Hash of all weights and buffers, with their types and shapes."""
    digest = hashlib.sha256()
    for name, tensor in {**model.state_dict(), **dict(model.named_buffers())}.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
