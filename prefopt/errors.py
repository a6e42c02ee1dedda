"""The errors that a user can mend, and how a command ends on one."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class PrefoptError(Exception):
    """Something that the user can mend: `what` is wrong (with file, line, key and value), and the `mend`."""

    exit_code = 2

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(f"{what}\n  mend: {mend}")
        self.what, self.mend = what, mend

    def __reduce__(self) -> Any:
        return type(self), (self.what, self.mend)  # what goes to another process is made of these


class Interrupted(PrefoptError):
    """The run was told to stop and can go on from its checkpoint."""

    exit_code = 130


class Diverged(PrefoptError):
    """Training produced a number that is not finite."""

    exit_code = 3


def reports_errors(main: Callable[P, R]) -> Callable[P, R]:
    """A command whose `PrefoptError` is printed without a traceback and becomes its exit code."""

    @wraps(main)
    def command(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return main(*args, **kwargs)
        except PrefoptError as error:
            print(f"prefopt: error: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code) from None

    return command
