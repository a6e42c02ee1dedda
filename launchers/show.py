"""What a person sees of a sweep: the plan before, the state meanwhile, the outcome after."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launchers.jobs import Batch, sbatch_text
from launchers.options import Options
from launchers.states import MISSING, State, counted
from prefopt.manifest import MANIFEST, Manifest
from prefopt.store import home
from prefopt.summary import shown

STYLES = {"done": "green", "failed": "red", "lost": "red", "stopped": "yellow", "waiting": "yellow", "running": "cyan"}
SHOWN_CELLS = 40
TRACEBACK_LINES = 12


def show_plan(manifest: Manifest, found: Mapping[str, State], todo: Sequence[Batch], options: Options) -> None:
    """Cells, what is done already, what is shared, and the jobs; the whole sbatch script where nothing is sent."""
    console = Console(stderr=True)
    table = Table(title=f"sweep {manifest.name}: {len(manifest.cells)} cells", title_justify="left", box=None)
    for column in ("", "cell", "run", "state"):
        table.add_column(column, overflow="fold")
    for cell in manifest.cells[:SHOWN_CELLS]:
        table.add_row(str(cell.index), escape(" ".join(cell.overrides)), cell.run, styled(found[cell.run]))
    console.print(table)
    if len(manifest.cells) > SHOWN_CELLS:
        more = len(manifest.cells) - SHOWN_CELLS
        console.print(f"... and {more} more, in {escape(str(manifest.folder / MANIFEST))}", soft_wrap=True)
    console.print(f"cells   {counted({cell.run: found[cell.run] for cell in manifest.cells})}", highlight=False)
    for stage in manifest.stages:
        console.print(f"shared  {stage.run}: {styled(found[stage.run])}, trained once", highlight=False)
    for note in shared_caches(manifest):
        console.print(f"shared  {note}", highlight=False, soft_wrap=True)
    for batch in todo:
        console.print(f"jobs    {layout(batch, options)}", highlight=False, soft_wrap=True)
        if options.cluster == "slurm" and not options.submit:
            console.print(f"\n{escape(sbatch_text(manifest, options, batch))}", style="dim", soft_wrap=True)
    if not todo:
        console.print("jobs    none: nothing is missing", highlight=False)
    elif not options.submit:
        console.print(
            f"nothing was sent; send it: [bold]python -m prefopt.sweep resume {named(manifest)}", soft_wrap=True
        )


def shared_caches(manifest: Manifest) -> list[str]:
    """Caches that several cells read, and one of them makes, under a lock."""
    cached = [c for c in manifest.cells if c.config["method"].get("needs", {}).get("reference") == "cached"]
    worlds = {json.dumps([c.config["model"], c.config["dataset"], c.config["seed"]], sort_keys=True) for c in cached}
    if len(cached) <= len(worlds):
        return []
    return [f"reference log-probs: {len(worlds)} for {len(cached)} cells, made once each by the first that needs them"]


def layout(batch: Batch, options: Options) -> str:
    """How the runs of a batch lie on jobs: `array of 12 jobs, up to 2 cells each`."""
    jobs, runs = len(batch.works), len(batch.works[0].runs)
    stacked = (
        "; exact ones that are alike, and adapters of one model, train as one"
        if batch.works[0].stack and runs > 1
        else ""
    )
    if options.cluster == "local":
        return f"{batch.at_once} {batch.says} take {runs} runs from one list{stacked}"
    width = f"{options.nodes} nodes x {options.tasks_per_node} tasks" if options.nodes > 1 else ""
    forks = batch.works[0].forks
    each = f", up to {runs} cells each" + (f", {forks} at a time" if forks else "") if runs > 1 else ""
    return f"{batch.says}: {f'array of {jobs} jobs' if jobs > 1 else '1 job'}{each}{', ' * bool(width)}{width}{stacked}"


def styled(state: State) -> str:
    """The state as rich markup, with what it waits for, or how often it was taken up again."""
    style = STYLES.get(state.state, "dim")
    on = f" for {escape(state.status['on'])}" if state.state == "waiting" and "on" in state.status else ""
    restarts = state.status.get("restarts", 0)
    again = f", taken up {restarts} times" if restarts > 1 else ", taken up once" if restarts else ""
    return f"[{style}]{state.state}{on}[/{style}]{again}"


def show_status(manifest: Manifest, found: Mapping[str, State]) -> None:
    """Every cell, and what the failed ones said last."""
    console = Console()
    table = Table(title=f"sweep {manifest.name}", title_justify="left", box=None)
    for column in ("", "cell", "run", "state", "job", "host", "step"):
        table.add_column(column, overflow="fold")
    for entry in (*manifest.stages, *manifest.cells):
        state = found[entry.run]
        table.add_row(
            "" if entry.index is None else str(entry.index),
            escape(" ".join(entry.overrides)) or "[dim]shared",
            entry.run,
            styled(state),
            state.job.id if state.job else "",
            str(state.status.get("host", "")),
            last_step(manifest.stored(entry.run).folder),
        )
    console.print(table)
    for entry in (*manifest.stages, *manifest.cells):
        if found[entry.run].state == "failed":
            _show_failure(console, manifest.stored(entry.run).folder)
    console.print(counted({cell.run: found[cell.run] for cell in manifest.cells}), highlight=False)
    if any(found[cell.run].state in MISSING | {"failed"} for cell in manifest.cells):
        console.print(f"next    [bold]python -m prefopt.sweep resume {named(manifest)}", highlight=False)


def show_sent(manifest: Manifest, todo: Sequence[Batch]) -> None:
    """That nobody waits, and where to ask."""
    sent = "sent; it goes on by itself\n" if todo else ""
    Console(stderr=True).print(f"{sent}next    [bold]python -m prefopt.sweep status {named(manifest)}", soft_wrap=True)


def show_end(manifest: Manifest, found: Mapping[str, State]) -> None:
    """How the sweep ended, and what to do next."""
    console = Console(stderr=True)
    for cell in manifest.cells:
        if found[cell.run].state == "failed":
            _show_failure(console, manifest.stored(cell.run).folder)
    console.print(f"sweep   {manifest.name}: {counted({c.run: found[c.run] for c in manifest.cells})}", highlight=False)
    unfinished = any(found[cell.run].state != "done" for cell in manifest.cells)
    following = f"prefopt.sweep resume {named(manifest)}" if unfinished else f"prefopt.compare sweep={manifest.name}"
    console.print(f"next    [bold]python -m {following}", highlight=False, soft_wrap=True)


def named(manifest: Manifest) -> str:
    """The sweep as a person would name it on the next command, as markup."""
    by_name = manifest.folder.parent == home() / "sweeps"
    return escape(manifest.name if by_name else shown(manifest.folder))


def last_step(run: Path) -> str:
    """The last step that the run has written down."""
    from prefopt.tracking.events import EVENTS, read

    step = ""
    if (run / EVENTS).exists():
        for event in read(run / EVENTS):
            step = str(event.step)
    return step


def _show_failure(console: Any, run: Path) -> None:
    error, log = run / "error.txt", run / "log.txt"
    said = error.read_text().strip().splitlines() if error.exists() else []
    where = f"its log is {shown(log)}" if log.exists() else f"see {shown(error)}"
    console.print(f"[red]failed[/red]  {run.name}; {where}", highlight=False, soft_wrap=True)
    for line in said[-TRACEBACK_LINES:]:
        console.print(f"        {line}", style="dim", markup=False, highlight=False, soft_wrap=True)
