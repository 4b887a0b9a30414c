"""The table of one finished run on the terminal: baseline and method side by side, from summary.json alone.

Shows what the summary holds and leaves out what it does not; computes nothing but units. Fits 80 columns with one baseline and says in
words, not only in colour, when the output is not the baseline's.

What a run is doing: on a terminal a progress bar over its examples, and a line for what comes before them; elsewhere log lines, one in ten
seconds at most. Nothing is drawn while an example is timed, only between two.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from specexp.figures.record import Record, SideRecord
from specexp.figures.speed import speedup_interval
from specexp.report.remarks import CARE, DANGER, PLAIN, remarks

Format = Callable[[float], str]
QUIET_SECONDS = 10  # between two log lines of a run's progress
logger = logging.getLogger(__name__)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _times(value: float) -> str:
    return f"{value:.2f}x"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:.1f} MiB"


def _yes(value: float) -> str:
    return "yes" if value else "NO"


@dataclass(frozen=True)
class Row:
    """`key` in the summary is the method's value; after `baseline_` (or `baseline_NAME_`) it is a baseline's."""
    label: str
    key: str
    format: Format


def _plain(digits: int) -> Format:
    return lambda value: f"{value:.{digits}f}"


SECTIONS: tuple[tuple[str, tuple[Row, ...]], ...] = (
    ("quality", (
        Row("pass@1", "pass_at_1", _percent),
        Row("pass@1, text as generated", "pass_at_1_raw", _percent),
        Row("ROUGE-1", "rouge1", _plain(4)),
        Row("ROUGE-2", "rouge2", _plain(4)),
        Row("ROUGE-L", "rougeL", _plain(4)),
        Row("perplexity", "perplexity", _plain(3)),
        Row("same tokens as the baseline", "equal_texts", _percent),
        Row("lossless", "lossless", _yes),
        Row("cache exact", "cache_exact", _yes),
    )),
    ("speed", (
        Row("speedup", "speedup", _times),
        Row("speedup, geometric mean", "speedup_geomean", _times),
        Row("speedup with prefill", "e2e_speedup", _times),
        Row("speedup the costs allow", "predicted_speedup", _times),
        Row("efficiency", "efficiency", _percent),
        Row("time to first token", "ttft", _milliseconds),
        Row("time per output token", "tpot", _milliseconds),
        Row("tokens/s decoding", "output_tps_per_user", _plain(1)),
        Row("tokens/s with prefill", "output_tps", _plain(1)),
    )),
    ("load", (
        Row("requests/s", "requests_per_second", _plain(2)),
        *(Row(f"first token, {q} of 100 requests", f"ttft_percentile_{q}", _milliseconds) for q in (50, 95, 99)),
        *(Row(f"whole request, {q} of 100 requests", f"e2e_percentile_{q}", _milliseconds) for q in (50, 95, 99)),
    )),
    ("speculation", (
        Row("mean acceptance length", "mean_acceptance_length", _plain(2)),
        Row("mean draft length", "mean_gamma", _plain(2)),
        Row("mean draft entropy", "mean_entropy", lambda nats: f"{nats:.3f} nats"),
        Row("nodes per tree", "mean_tree_nodes", _plain(1)),
        Row("draft acceptance rate", "draft_acceptance_rate", _percent),
        Row("alpha", "alpha", _plain(3)),
        Row("tokens per target call", "block_efficiency", _plain(2)),
        Row("SWI, costs by parameters", "swi_model_parameters", _times),
        Row("SWI, costs of previous work", "swi_previous_work", _times),
        Row("draft cost c", "cost_ratio_c", _plain(3)),
        Row("verification cost v", "verify_ratio_v", _plain(2)),
        Row("overhead per round", "overhead_ms_per_round", lambda value: f"{value:.2f} ms"),
    )),
    ("memory", (
        Row("KV cache, target", "kv_bytes_target", _mebibytes),
        Row("KV cache, draft", "kv_bytes_draft", _mebibytes),
        Row("rounds that evicted", "compression_count", _plain(0)),
        Row("tokens evicted", "tokens_evicted", _plain(0)),
        Row("peak memory", "peak_mem_allocated", _mebibytes),
    )),
)
INTERVAL = "95 % interval"  # below the speedup
UNUSUAL = ("compression_count", "tokens_evicted")  # not shown where all are 0
STYLES = {PLAIN: "", CARE: "yellow", DANGER: "bold red"}  # of remarks: red is for texts that are not the target's own


def plain_console(stderr: bool = False, highlight: bool = True) -> Console:
    """A console to which brackets and colons in a text are brackets and colons: names, prompts and errors are not ours."""
    return Console(stderr=stderr, highlight=highlight, markup=False, emoji=False)


def heading(title: str | None) -> Text | None:
    """The title of a table, which may hold names."""
    return None if title is None else Text(title, style="bold")


def show(summary: dict, directory: Path) -> None:
    """The table on standard output, under the run's names, and where the run is."""
    console = plain_console()
    named = [str(summary[key]) for key in ("method", "model_pair", "dataset") if key in summary]
    render(summary, console, ", ".join(named) or None)
    console.print(str(directory), style="dim", soft_wrap=True, highlight=False)


def render(summary: dict, console: Console, title: str | None = None) -> None:
    """Print the table of a flat summary, and below it what explains and what limits its figures."""
    console.print(build_table(summary, title))
    for remark in remarks(summary):
        console.print(Text(remark.text, style=STYLES[remark.kind]))


def build_table(summary: dict, title: str | None = None) -> Table:
    """One row for every figure that the summary holds for the method or a baseline, in sections."""
    baselines = _baselines(summary)
    caption = _caption(summary)
    table = Table(title=heading(title), caption=caption and Text(caption, style="table.caption"), caption_justify="left")
    table.add_column("")
    for name in (*baselines, "method"):
        table.add_column(Text(name.removeprefix("baseline_")), justify="right", no_wrap=True)
    for name, rows in SECTIONS:
        rows = (*_more_passes(summary), *rows) if name == "quality" else rows
        found = [cells for row in rows for cells in _cells(row, summary, baselines)]
        for cells in ([(Text(name, style="bold"),)] if found else []) + found:
            table.add_row(*cells)
        table.add_section()
    return table


def _more_passes(summary: dict) -> Iterator[Row]:
    """pass@5, pass@10, ...: whatever k the run asked for beyond 1."""
    for key in summary:
        k = key.removeprefix("pass_at_")
        if k != key and k.isdigit() and k != "1":
            yield Row(f"pass@{k}", key, _percent)


def _baselines(summary: dict) -> list[str]:
    """`baseline` and every `baseline_NAME` that has a time per token of its own."""
    names = [key.removesuffix("_tpot") for key in summary if key.startswith("baseline") and key.endswith("_tpot")]
    return sorted(names, key=lambda name: (name != "baseline", name))


def _cells(row: Row, summary: dict, baselines: list[str]) -> Iterator[tuple[str | Text, ...]]:
    """The table's rows for one figure: itself, the interval of a speedup, and the same over further baselines."""
    values = [summary.get(f"{name}_{row.key}") for name in baselines] + [summary.get(row.key)]
    if any(value is not None for value in values) and (any(values) or row.key not in UNUSUAL):
        yield (f"  {row.label}", *("" if value is None else _styled(row, value) for value in values))
    blank = [""] * len(baselines)
    if row.key == "speedup" and (interval := speedup_interval(summary)):
        yield (f"    {INTERVAL}", *blank, "{:.2f} to {:.2f}".format(*interval))
    for name in [name.removeprefix("baseline_") for name in baselines if name != "baseline"]:
        if (value := summary.get(f"{row.key}_vs_{name}")) is not None:
            yield (Text(f"    over {name}"), *blank, row.format(value))


def _styled(row: Row, value: float) -> Text:
    style = "bold red" if value is False else "bold green" if row.key == "speedup" and value > 1 else ""
    return Text(row.format(value), style=style)


def _caption(summary: dict) -> str | None:
    examples = summary.get("num_examples")
    if examples is None:
        return None
    judged = f", code judged in {summary['sandbox']}" if "sandbox" in summary else ""
    return f"{examples} example{'' if examples == 1 else 's'}, {summary.get('num_tokens', 0)} tokens{judged}"


def watched(records: Iterator[Record], total: int, done: int, name: str) -> Iterator[Record]:
    """The records, each advancing the bar; beside it the speedup of the examples so far."""
    console, left = plain_console(stderr=True), TextColumn("{task.description}", markup=False)
    told = perf_counter()
    columns = (left, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    method = baseline = (0, 0.0)
    with Progress(*columns, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=total, completed=done, note="")
        for record in records:
            method, baseline = _added(method, record.method), _added(baseline, record.baseline)
            progress.update(task, advance=1, note=_note(method, baseline), refresh=True)
            done += 1
            if not console.is_terminal and perf_counter() - told >= QUIET_SECONDS:
                told = perf_counter()
                logger.info("%s", " ".join(filter(None, (f"{name}: {done} of {total} texts", _note(method, baseline)))))
            yield record


def _added(so_far: tuple[int, float], side: SideRecord | None) -> tuple[int, float]:
    """(decoded tokens, seconds), those of `side` among them."""
    repeats = () if side is None else side.repeats
    timed = [each for each in repeats if each.decoded_tokens]  # others came in one piece
    return so_far[0] + sum(each.decoded_tokens for each in timed), so_far[1] + sum(each.decode_seconds for each in timed)


def _note(method: tuple[int, float], baseline: tuple[int, float]) -> str:
    """The ratio of the two sides' tokens per second: texts may differ in length, so seconds alone say nothing."""
    if not all((*method, *baseline)):
        return ""
    return f"{(method[0] / method[1]) / (baseline[0] / baseline[1]):.2f}x so far"


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A line that stands still while something is done or measured, and goes; without a terminal a line in the log."""
    console = plain_console(stderr=True)
    if not console.is_terminal:
        logger.info("%s", text)
        yield
        return
    with Live(f"{text} ...", console=console, transient=True, auto_refresh=False):
        yield
