"""`python -m specexp.report compare A B`: are two runs different, on the examples that both have? With one run: method and baseline.

From records alone. Speed is compared as speedup, each run's over its own interleaved baseline, so that a machine which was slower on one
day changes nothing; where a run has no baseline, as throughput. A p-value says how surprising the difference would be between equals, not
how large it is; with few examples only large differences can be seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from specexp.errors import UserError
from specexp.figures.intervals import difference, log_speed_ratio, mcnemar, permutation_p
from specexp.figures.speed import decoded_tokens
from specexp.tracking.records import read_records


@dataclass(frozen=True)
class Compared:
    """One figure of both sides: shown values, their difference in words, and p; remark: what a reader should know."""

    figure: str
    a: str
    b: str
    difference: str
    p: float
    remark: str = ""


Sides = list[tuple[str, dict, dict | None]]  # (example, side, its baseline), one per sample


def main(arguments: Sequence[str]) -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m specexp.report compare", description=__doc__, formatter_class=layout)
    parser.add_argument("a", type=Path, metavar="A", help="a run directory")
    parser.add_argument("b", type=Path, metavar="B", nargs="?", help="another; left out: A's baseline")
    options = parser.parse_args(arguments)
    if options.b is None:
        records = read_records(options.a)
        if not records or "baseline" not in records[0]:
            raise UserError(f"{options.a} holds no baseline to compare with; name a second run.")
        a, b, names = _sides(records, None), [(r["id"], r["baseline"], None) for r in records], ("method", "baseline")
    else:
        a, b = paired(*(_sides(read_records(place), "baseline") for place in (options.a, options.b)), options.a, options.b)
        names = (options.a.absolute().name, options.b.absolute().name)
    _show(compare(a, b), names, len({name for name, _, _ in a}))


def _sides(records: Sequence[dict], baseline: str | None) -> Sides:
    return [(record["id"], record["method"], record.get(baseline)) for record in records]


def paired(a: Sides, b: Sides, place_a: Path, place_b: Path) -> tuple[Sides, Sides]:
    """Both without the examples that the other lacks. Raises UserError where none is left."""
    both = {name for name, _, _ in a} & {name for name, _, _ in b}
    if not both:
        raise UserError(f"{place_a} and {place_b} have no example in common; compare runs on the same data set.")
    return [side for side in a if side[0] in both], [side for side in b if side[0] in both]


def compare(a: Sides, b: Sides) -> list[Compared]:
    """Speed, then every score that both have."""
    found = [_speed(a, b)]
    scores = [key for key, value in a[0][1]["score"].items() if isinstance(value, (bool, int, float)) and key in b[0][1]["score"]]
    return found + [_passes(key, a, b) if isinstance(a[0][1]["score"][key], bool) else _scores(key, a, b) for key in scores]


def _speed(a: Sides, b: Sides) -> Compared:
    with_baseline = all(side[2] is not None for side in (*a, *b))
    rows_a, rows_b = (_times(sides, with_baseline) for sides in (a, b))
    whole = [rows.sum(0, keepdims=True) for rows in (rows_a, rows_b)]
    shown = [f"{exp(float(log_speed_ratio(total, np.ones_like(total))[0])):.2f}{'x' if with_baseline else ' tok/s'}" for total in whole]
    ratio = exp(float(log_speed_ratio(*whole)[0]))
    p = permutation_p(rows_a, rows_b, log_speed_ratio)
    return Compared("speedup" if with_baseline else "throughput", *shown, f"A is {ratio:.3f} times B", p)


def _times(sides: Sides, with_baseline: bool) -> np.ndarray:
    """[examples, 2 or 4]: decoded tokens and seconds, and the baseline's, summed over an example's samples."""
    rows: dict[str, np.ndarray] = {}
    for name, side, baseline in sides:
        numbers = [decoded_tokens(side), side["decode_seconds"]]
        numbers += [decoded_tokens(baseline), baseline["decode_seconds"]] if with_baseline else []
        rows[name] = rows.get(name, np.zeros(len(numbers))) + np.array(numbers, dtype=float)
    return np.array([rows[name] for name in sorted(rows)])


def _passes(key: str, a: Sides, b: Sides) -> Compared:
    """Of the first sample of each example."""
    first_a, first_b = ({name: side["score"][key] for name, side, _ in reversed(sides)} for sides in (a, b))
    passed_a, passed_b = ([first[name] for name in sorted(first_a)] for first in (first_a, first_b))
    test = mcnemar(passed_a, passed_b)
    rates = [f"{100 * sum(passed) / test.count:.1f} %" for passed in (passed_a, passed_b)]
    remark = f"differences below {100 * test.detectable:.1f} points could not have been seen"
    return Compared(key, *rates, f"{test.only_a} with A alone, {test.only_b} with B alone", test.p, remark)


def _scores(key: str, a: Sides, b: Sides) -> Compared:
    columns = []
    for sides in (a, b):
        rows: dict[str, list[float]] = {}
        for name, side, _ in sides:
            rows.setdefault(name, []).append(float(side["score"][key]))
        columns.append(np.array([[sum(rows[name]) / len(rows[name])] for name in sorted(rows)]))
    means = [float(column.mean()) for column in columns]
    return Compared(key, *(f"{value:.4f}" for value in means), f"{means[0] - means[1]:+.4f}", permutation_p(*columns, difference))


def _show(found: Sequence[Compared], names: tuple[str, str], examples: int) -> None:
    table = Table(title=f"A: {names[0]}\nB: {names[1]}\n{examples} examples", title_justify="left")
    for head in ("", "A", "B", "difference", "p"):
        table.add_column(head, justify="left" if head in ("", "difference") else "right")
    for row in found:
        table.add_row(row.figure, row.a, row.b, row.difference, f"{row.p:.4f}", style="bold" if row.p < 0.05 else "")
    console = Console()
    console.print(table)
    for row in found:
        if row.remark:
            console.print(f"{row.figure}: {row.remark}.", highlight=False, soft_wrap=True)
    console.print("p: McNemar's exact test for passes, paired permutations for the rest; below 0.05 in bold.", highlight=False)
