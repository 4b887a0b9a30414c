"""The columns of a table of runs: what each shows of a row, in which unit, and which of them a table needs.

The names and units are DynaTree's (tokens, throughput, TTFT, TPOT, perplexity, acceptance, tokens per round, memory, compressions), the
definitions the field's: throughput and TPOT are of decoding alone, acceptance counts no token that the target added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specexp.errors import UserError
from specexp.figures.speed import FEWEST, half_width, speedup_interval
from specexp.report.rows import SETTING

Row = dict[str, object]


@dataclass(frozen=True)
class Column:
    """`key` in a row is shown as `form` of it, times `unit`; `usual`: the value for which, in all rows, the column says nothing."""

    key: str
    head: str
    form: str = ".2f"
    unit: float = 1.0
    usual: object = None
    spread: str | None = None  # key of the standard deviation over requests: the mean's 95 % interval is shown after the figure

    def text(self, row: Row) -> str:
        """The cell; "" where the row has no such figure."""
        value = row.get(self.key)
        if value is None or isinstance(value, bool):
            return "" if value is None else "yes" if value else "NO"
        if not isinstance(value, (int, float)):
            return str(value)
        return format(value * self.unit, self.form) + self._interval(row)

    def _interval(self, row: Row) -> str:
        """By the number of prompts: samples of one prompt resemble each other."""
        deviation, count = row.get(self.spread) if self.spread else None, row.get("num_examples") or 0
        return f" ± {half_width(deviation, count) * self.unit:{self.form}}" if deviation is not None and count >= FEWEST else ""


@dataclass(frozen=True)
class Interval(Column):
    """The 95 % interval of a speedup, which is not symmetric."""

    def text(self, row: Row) -> str:
        return "" if (interval := speedup_interval(row)) is None else "{:.2f} to {:.2f}".format(*interval)


COLUMNS: tuple[Column, ...] = (
    Column("model_pair", "pair"),
    Column("dataset", "data"),
    Column("weights", "weights", usual="real"),
    Column("cache", "cache", usual="full"),
    Column("label", "method"),
    Column("max_new_tokens", "tokens", ".0f"),
    Column("output_tps_per_user", "tok/s", ".1f", spread="output_tps_per_user_std"),
    Column("speedup", "speedup"),
    Interval("speedup_low", "95 % interval"),
    Column("predicted_speedup", "predicted"),
    Column("ttft", "TTFT ms", ".1f", 1000.0),
    Column("tpot", "TPOT ms", ".2f", 1000.0),
    Column("perplexity", "PPL", ".3f"),
    Column("draft_acceptance_rate", "accept %", ".1f", 100.0),
    Column("mean_acceptance_length", "AL"),
    Column("tokens_per_emission", "T/round"),
    Column("peak_mem_allocated", "mem MB", ".0f", 2.0**-20),
    Column("kv_bytes_target", "KV MiB", ".2f", 2.0**-20),
    Column("compression_count", "compress", ".0f", usual=0),
    Column("pass_at_1", "pass@1 %", ".1f", 100.0),
    Column("accuracy", "accuracy %", ".1f", 100.0),
    Column("rouge1", "ROUGE-1", ".4f"),
    Column("equal_texts", "same %", ".1f", 100.0),
    Column("lossless", "lossless", usual=True),
    Column("cache_exact", "cache exact", usual=True),
    Column("state", "state", usual="finished"),
)
S2 = ("label", "max_new_tokens", "output_tps_per_user", "speedup", "ttft", "tpot", "perplexity", "draft_acceptance_rate",
      "tokens_per_emission", "peak_mem_allocated", "compression_count")  # what a page is wide enough for
ONE_VALUE = ("model_pair", "dataset")  # columns that say nothing where all rows agree


def visible(rows: Sequence[Row], chosen: Sequence[str] | None = None) -> list[Column]:
    """The columns that say something about these rows, in COLUMNS' order; or exactly the `chosen` keys, in theirs.

    A chosen key that is no column is any figure of the summary. Raises UserError for one that no row has.
    """
    if chosen:
        return [_chosen(key, rows) for key in chosen]
    return [column for column in COLUMNS if _says_something(column, rows)]


def short(columns: Sequence[Column]) -> list[Column]:
    """Those of S2's own tables, and the quality that was scored: for a page, not a screen."""
    wanted = {*S2, "pass_at_1", "rouge1", "accuracy"}
    return [column for column in columns if column.key in wanted]


def _says_something(column: Column, rows: Sequence[Row]) -> bool:
    values = [row.get(column.key) for row in rows]
    known = [value for value in values if value is not None]
    if column.key in ONE_VALUE:
        return len(set(known)) > 1
    return any(value != column.usual for value in known)


def _chosen(key: str, rows: Sequence[Row]) -> Column:
    if known := [column for column in COLUMNS if column.key == key]:
        return known[0]
    key = key if any(key in row for row in rows) else f"{SETTING}{key}"
    if not any(key in row for row in rows):
        name = key.removeprefix(SETTING)
        raise UserError(f"no run has a figure {name}; choose of {', '.join(column.key for column in COLUMNS)}, or a key of summary.json.")
    return Column(key, key.removeprefix(SETTING), ".4g")
