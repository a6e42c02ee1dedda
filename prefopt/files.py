"""Files that are whole or not there: written beside, synced, renamed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO


def replace_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file, sync it, and rename it to `path`; on any failure `path` is what it was.

    Raises OSError (a full disk, say) after the temporary file is gone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.part")
    try:
        with beside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """`replace_file` for text."""
    replace_file(path, lambda file: file.write(text.encode()))
