"""Run on a node before a sweep is queued: does it see what this machine sees? Prints one line of JSON."""

import json
import socket
import sys
from pathlib import Path

from filelock import FileLock, Timeout


def main(folder: Path, token: str) -> None:
    """What the node can do in the sweep's folder, whose lock the sender holds."""
    seen = folder / "probe"
    answer = {"host": socket.gethostname(), "sees": seen.exists() and seen.read_text() == token}
    if answer["sees"]:
        (folder / "answer").write_text(token)
        try:
            FileLock(folder / "lock").acquire(timeout=0)
            answer["locks"] = False
        except Timeout:
            answer["locks"] = True
    print(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
