"""`python -m specexp.report compare A B`: are two runs different, on the examples that both have? With one run: method and baseline.

From records alone. Speed is compared as speedup, each run's over its own interleaved baseline, so that a machine which was slower on one
day changes nothing; where a run has no baseline, as throughput. Decoding alone is compared, or whole requests where a side gives each text
in one piece. A p-value says how surprising the difference would be between equals, not how large it is; with few examples only large
differences can be seen. What cannot be compared has no p, and its row says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, isfinite
from pathlib import Path

import numpy as np
from rich.table import Table
from rich.text import Text

from specexp.errors import UserError
from specexp.figures.paired import SURPRISING, difference, log_speed_ratio, mcnemar, permutation_p
from specexp.figures.record import Record, SideRecord
from specexp.figures.speed import counted_time, in_one_piece, log_rate_ratio, whole_request
from specexp.report.runs import Parser
from specexp.report.table import plain_console
from specexp.tracking.records import read_records


@dataclass(frozen=True)
class Compared:
    """One figure of both sides: shown values, their difference in words, p (None: there is none); remark: what a reader should know."""

    figure: str
    a: str
    b: str
    difference: str
    p: float | None
    remark: str = ""


CANNOT = "cannot be compared"
WHOLE = "a side gives each text in one piece, so whole requests are compared, prefill included"
ONE_BASELINE = "only one of the runs has a baseline for all examples, so throughputs are compared"
Sides = list[tuple[str, SideRecord, SideRecord | None]]  # (example, side, its baseline), one per sample


def main(arguments: Sequence[str]) -> None:
    parser = Parser("compare", __doc__)
    parser.add_argument("a", type=Path, metavar="A", help="a run directory")
    parser.add_argument("b", type=Path, metavar="B", nargs="?", help="another; left out: A's baseline")
    options = parser.parse_args(arguments)
    if options.b is None:
        records = [record for record in _records(options.a) if record.baseline is not None]
        if not records:
            raise UserError(f"{options.a} holds no baseline to compare with; name a second run.")
        a, b = ([(record.id, record.sides[name], None) for record in records] for name in ("method", "baseline"))
        names = ("method", "baseline")
    else:
        both = [_records(place) for place in (options.a, options.b)]
        _check_same_prompts(*both, options.a, options.b)
        a, b = paired(*map(_sides, both), options.a, options.b)
        names = (options.a.absolute().name, options.b.absolute().name)
    _show(compare(a, b), names, len({name for name, _, _ in a}))


def _records(place: Path) -> list[Record]:
    records = read_records(place)
    if not records:
        raise UserError(f"{place} holds no records yet; wait for its first example.")
    return records


def _check_same_prompts(a: Sequence[Record], b: Sequence[Record], place_a: Path, place_b: Path) -> None:
    """UserError for an example that is another one in the other run, though it has the same id there."""
    prompts = {record.id: record.prompt for record in a}
    if odd := next((record.id for record in b if prompts.get(record.id, record.prompt) != record.prompt), None):
        raise UserError(f"{place_a} and {place_b} asked different prompts under the id {odd}; compare runs on the same data set.")


def _sides(records: Sequence[Record]) -> Sides:
    return [(record.id, record.method, record.baseline) for record in records]


def paired(a: Sides, b: Sides, place_a: Path, place_b: Path) -> tuple[Sides, Sides]:
    """Both without the examples that the other lacks. Raises UserError where none is left."""
    both = {name for name, _, _ in a} & {name for name, _, _ in b}
    if not both:
        raise UserError(f"{place_a} and {place_b} have no example in common; compare runs on the same data set.")
    return [side for side in a if side[0] in both], [side for side in b if side[0] in both]


def compare(a: Sides, b: Sides) -> list[Compared]:
    """Speed, then every score that both have."""
    known = [dict.fromkeys(key for _, side, _ in sides for key, value in side.score.items() if _is_number(value)) for sides in (a, b)]
    return [_speed(a, b), *(_score(key, a, b) for key in known[0] if key in known[1])]


def _is_number(value: object) -> bool:
    """Not a NaN, which is what an older run may hold for a score that there is not."""
    return isinstance(value, (bool, int, float)) and isfinite(value)


def _speed(a: Sides, b: Sides) -> Compared:
    has_baseline = [all(baseline is not None for _, _, baseline in sides) for sides in (a, b)]
    with_baseline = all(has_baseline)
    groups = [[side for _, side, _ in sides] for sides in (a, b)]
    groups += [[baseline for _, _, baseline in sides] for sides in (a, b)] if with_baseline else []
    spent = counted_time(*groups)
    held = {name for sides in (a, b) for name, *of in sides if any(map(in_one_piece, filter(None, of)))}
    if spent is not whole_request and held < {name for name, *_ in a}:  # their decode time is not known on every side
        a, b = ([each for each in sides if each[0] not in held] for sides in (a, b))
    rows_a, rows_b = (_times(sides, spent, with_baseline) for sides in (a, b))
    figure = "speedup" if with_baseline else "throughput"
    remarks = [WHOLE] if spent is whole_request else []
    remarks += [ONE_BASELINE] if any(has_baseline) and not with_baseline else []
    totals = [rows.sum(axis=0) for rows in (rows_a, rows_b)]
    if reason := _not_comparable(totals):
        return Compared(figure, "", "", CANNOT, None, "; ".join([*remarks, reason]))
    shown = [f"{exp(log_rate_ratio(total)):.2f}{'x' if with_baseline else ' tok/s'}" for total in totals]
    ratio = exp(log_speed_ratio(*totals))
    return Compared(figure, *shown, f"A is {ratio:.3f} times B", permutation_p(rows_a, rows_b, log_speed_ratio), "; ".join(remarks))


def _times(sides: Sides, spent: Callable, with_baseline: bool) -> np.ndarray:
    """[examples, 2 or 4]: tokens and seconds, and the baseline's, summed over an example's samples."""
    rows: dict[str, np.ndarray] = {}
    for name, side, baseline in sides:
        numbers = [*spent(side), *(spent(baseline) if with_baseline else ())]
        rows[name] = rows.get(name, np.zeros(len(numbers))) + np.array(numbers, dtype=float)
    return np.array([rows[name] for name in sorted(rows)])


def _not_comparable(totals: Sequence[np.ndarray]) -> str | None:
    """Why these sums of tokens and seconds make no rates; None where they do."""
    tokens, seconds = (np.concatenate([total[part::2] for total in totals]) for part in (0, 1))
    if not tokens.all():
        return "on one side no text has a token after its first"
    if not (np.isfinite(seconds) & (seconds > 0)).all():
        return "on one side nothing was timed"
    return None


def _score(key: str, a: Sides, b: Sides) -> Compared:
    """On the examples that have it on both sides."""
    values_a, values_b = (_values(key, sides) for sides in (a, b))
    names = sorted(values_a.keys() & values_b.keys())
    examples = len({name for name, _, _ in a})
    if not names:
        return Compared(key, "", "", CANNOT, None, "no example has this score on both sides")
    columns = [[values[name] for name in names] for values in (values_a, values_b)]
    passes = all(isinstance(value, bool) for column in columns for values in column for value in values)
    found, remark = (_passes if passes else _means)(key, *columns)
    partly = f"{len(names)} of {examples} examples have this score on both sides" if len(names) < examples else ""
    return Compared(*found, "; ".join(filter(None, (remark, partly))))


def _values(key: str, sides: Sides) -> dict[str, list]:
    """Of each example that has the score, those of its samples."""
    found: dict[str, list] = {}
    for name, side, _ in sides:
        if _is_number(side.score.get(key)):
            found.setdefault(name, []).append(side.score[key])
    return found


def _passes(key: str, a: Sequence[Sequence[bool]], b: Sequence[Sequence[bool]]) -> tuple[tuple, str]:
    """Of the first sample of each example."""
    firsts = [[samples[0] for samples in column] for column in (a, b)]
    test = mcnemar(*firsts)
    rates = [f"{100 * sum(first) / test.count:.1f} %" for first in firsts]
    if test.detectable is None:
        examples = f"{test.count} example{'' if test.count == 1 else 's'}"
        remark = f"with {examples} no difference could have had p below {SURPRISING:g}; that takes 6"
    else:
        remark = f"differences below {100 * test.detectable:.1f} points could not have been seen"
    return (key, *rates, f"{test.only_a} with A alone, {test.only_b} with B alone", test.p), remark


def _means(key: str, a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> tuple[tuple, str]:
    """Of the mean over each example's samples."""
    columns = [np.array([[sum(samples) / len(samples)] for samples in column], dtype=float) for column in (a, b)]
    means = [float(column.mean()) for column in columns]
    return (key, *(f"{value:.4f}" for value in means), f"{means[0] - means[1]:+.4f}", permutation_p(*columns, difference)), ""


def _show(found: Sequence[Compared], names: tuple[str, str], examples: int) -> None:
    title = Text(f"A: {names[0]}\nB: {names[1]}\n{examples} example{'' if examples == 1 else 's'}")
    table = Table(title=title, title_justify="left")
    for head in ("", "A", "B", "difference", "p"):
        table.add_column(head, justify="left" if head in ("", "difference") else "right")
    for row in found:
        bold = row.p is not None and row.p < SURPRISING
        table.add_row(Text(row.figure), row.a, row.b, row.difference, "" if row.p is None else f"{row.p:.4f}", style="bold" if bold else "")
    console = plain_console()
    console.print(table)
    for row in found:
        if row.remark:
            console.print(Text(f"{row.figure}: {row.remark}."), soft_wrap=True)
    console.print(f"p: McNemar's exact test for passes, paired permutations for the rest; below {SURPRISING:g} in bold.", highlight=False)
