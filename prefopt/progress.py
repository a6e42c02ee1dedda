"""Progress on long work, with rate and time left, on standard error; of several processes only the first one speaks."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from prefopt import ranks

T = TypeVar("T")


def bars() -> Any:
    """A rich progress display: description, bar, done of total, rate, time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:.1f}/s" if task.speed else "", style="dim")

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not (console.is_terminal and ranks.first()),
    )


@contextmanager
def bar(description: str, total: int, done: int = 0) -> Iterator[Any]:
    """A bar; its `update(steps, note)` moves it on."""
    with bars() as display:
        task = display.add_task(description, total=total, completed=done, note="")

        def update(steps: int = 1, note: str | None = None) -> None:
            display.update(task, advance=steps, **({} if note is None else {"note": note}))

        yield update


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """The items, with a bar that moves on with each."""
    with bar(description, total) as update:
        for item in items:
            yield item
            update()


def say(message: str, style: str | None = None) -> None:
    """A line for the person at the terminal, as it is: nothing in it is markup, and paths stay whole."""
    from rich.console import Console

    console = Console(stderr=True, quiet=not ranks.first())
    console.print(message, style=style, markup=False, highlight=False, soft_wrap=True)
