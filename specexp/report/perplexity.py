"""The table of one evaluation of caches on the terminal, from its rows alone. Computes nothing but units."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

HEADS = ("cache", "perplexity", "nats per token", "next token right", "tokens", "KV cache")


def show(rows: Sequence[dict], title: str, directory: Path) -> None:
    """The table on standard output, and where the files are."""
    console = Console()
    console.print(build_table(rows, title))
    console.print(str(directory), style="dim", soft_wrap=True, highlight=False)


def build_table(rows: Sequence[dict], title: str) -> Table:
    """One row per cache, in the order given."""
    table = Table(title=title, title_style="bold")
    for head in HEADS:
        table.add_column(head, justify="left" if head == "cache" else "right", no_wrap=True)
    for row in rows:
        right, size = f"{100 * row['accuracy']:.1f} %", f"{row['kv_bytes'] / 2**20:.2f} MiB"
        table.add_row(row["cache"], f"{row['perplexity']:.3f}", f"{row['mean_nll']:.4f}", right, str(row["tokens"]), size)
    return table
