"""What a run is doing: a progress bar over its examples, on a terminal; silence elsewhere. Redrawn only between
examples, never while one is timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def watched(records: Iterator[dict], total: int, done: int, name: str) -> Iterator[dict]:
    """The records, each advancing the bar; beside it the speedup of the examples so far."""
    console = Console(stderr=True)
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    method = baseline = 0.0
    with Progress(*columns, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=total, completed=done, note="")
        for record in records:
            method += record["method"]["decode_seconds"]
            baseline += record.get("baseline", record["method"])["decode_seconds"]
            progress.update(task, advance=1, note=f"{baseline / method:.2f}x so far" if method else "", refresh=True)
            yield record


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A line that stands still while something is measured, and goes."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with Live(f"{text} ...", console=console, transient=True, auto_refresh=False):
        yield
