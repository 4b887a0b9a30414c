"""What a run is doing: a progress bar over its examples, on a terminal; silence elsewhere. Redrawn only between
examples, never while one is timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from specexp.figures.record import Record, SideRecord


def watched(records: Iterator[Record], total: int, done: int, name: str) -> Iterator[Record]:
    """The records, each advancing the bar; beside it the speedup of the examples so far."""
    console = Console(stderr=True)
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    method = baseline = (0, 0.0)
    with Progress(*columns, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=total, completed=done, note="")
        for record in records:
            method, baseline = _added(method, record.sides["method"]), _added(baseline, record.sides.get("baseline"))
            progress.update(task, advance=1, note=_note(method, baseline), refresh=True)
            yield record


def _added(so_far: tuple[int, float], side: SideRecord | None) -> tuple[int, float]:
    """(decoded tokens, seconds), those of `side` among them."""
    repeats = () if side is None else side.repeats
    return so_far[0] + sum(each.decoded_tokens for each in repeats), so_far[1] + sum(each.decode_seconds for each in repeats)


def _note(method: tuple[int, float], baseline: tuple[int, float]) -> str:
    """The ratio of the two sides' tokens per second: texts may differ in length, so seconds alone say nothing."""
    if not all((*method, *baseline)):
        return ""
    return f"{(method[0] / method[1]) / (baseline[0] / baseline[1]):.2f}x so far"


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A line that stands still while something is measured, and goes."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with Live(f"{text} ...", console=console, transient=True, auto_refresh=False):
        yield
