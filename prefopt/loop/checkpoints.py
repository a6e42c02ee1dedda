"""Checkpoints that are whole or not there, and the newest one that can be read."""

import hashlib
import io
import mmap
import pickle
import time
from pathlib import Path
from typing import IO, Any

import lightning.pytorch as L
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from prefopt import ranks, stop
from prefopt.errors import Interrupted, PrefoptError
from prefopt.files import replace_file
from prefopt.progress import say

DIGEST = hashlib.sha256().digest_size
"""Bytes at the end of a checkpoint: the checksum of those before."""


class WholeFiles(CheckpointIO):
    """Writes beside, syncs, keeps the checkpoint before as `previous.ckpt`, renames; reads tensors and plain
    containers."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        fresh = path.with_name("new.ckpt")
        try:
            replace_file(fresh, lambda file: write(checkpoint, file))
        except (OSError, RuntimeError) as error:
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):  # torch.save hides an OSError behind its own complaint
                raise
            raise PrefoptError(
                f"the checkpoint {path} could not be written: {cause.strerror}",
                "free some space; the same command then goes on from the checkpoint before",
            ) from error
        if path.exists():
            path.replace(path.with_name("previous.ckpt"))
        fresh.replace(path)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        try:
            return torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise PrefoptError(
                f"the checkpoint {path} holds more than tensors and plain containers, and is not opened: "
                "to open it could run any code",
                f"delete it if it is not yours, and start anew by deleting {Path(path).parent.parent}",
            ) from error

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def write(checkpoint: dict[str, Any], file: IO[bytes]) -> None:
    """What torch writes, and its checksum, which torch passes over when it reads."""
    digest = hashlib.sha256()

    class Digested(io.RawIOBase):
        def write(self, data: Any) -> int:
            digest.update(data)
            return file.write(data)

    digested: Any = Digested()
    torch.save(checkpoint, digested)
    file.write(digest.digest())


def newest_sound(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` whose every byte is there; None where there is none at all.

    Damaged ones before it are deleted, lest they take the place of a sound one. Raises PrefoptError where there are
    checkpoints but none is sound.
    """
    found = [folder / name for name in ("new.ckpt", "last.ckpt", "previous.ckpt") if (folder / name).exists()]
    for i, path in enumerate(found):
        if sound(path):
            for damaged in found[:i]:
                damaged.unlink()
            return path
        say(f"{path} is damaged; trying the one before", "yellow")
    if found:
        raise PrefoptError(f"every checkpoint in {folder} is damaged", f"start anew by deleting {folder.parent}")
    return None


def sound(path: Path) -> bool:
    """Whether the file ends with the checksum of all that is before."""
    if path.stat().st_size <= DIGEST:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return hashlib.sha256(memoryview(content)[:-DIGEST]).digest() == content[-DIGEST:]


class Checkpoints(Checkpoint):
    """Saves `last.ckpt` at a batch end every so often, when told to stop, and when training ends.

    At the last batch of a round it waits for the round's `finish`, so that no checkpoint lies between the two.
    All processes of a run save and stop at the same step: when any was told to stop, and by the first one's clock.
    """

    def __init__(self, folder: Path, *, every_s: float) -> None:
        self.path, self.every_s = folder / "last.ckpt", every_s
        self.saved = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        stop.listen()  # Lightning has put its own handler before ours by now, which would stop before we have saved

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if not trainer.is_last_batch:
            self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        last = trainer.current_epoch + 1 >= (trainer.max_epochs or 0)
        self._save_if_due(trainer, now=last)

    def _save_if_due(self, trainer: L.Trainer, now: bool = False) -> None:
        due = ranks.first() and time.monotonic() - self.saved >= self.every_s
        due, asked = ranks.anyone(due, bool(stop.asked()))
        if now or asked or due:
            trainer.save_checkpoint(self.path)
            self.saved = time.monotonic()
        if asked:
            by = stop.asked() or "a signal to another process"
            raise Interrupted(
                f"stopped by {by} at step {trainer.global_step}; the checkpoint is {self.path}",
                "the same command goes on from here",
            )
