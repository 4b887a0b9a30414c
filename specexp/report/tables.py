"""`python -m specexp.report DIR...`: the runs below the directories as a table, and with --out as files: tables, figures, a page.

`sweep.csv`, `sweep.json`, `sweep.md`, `sweep.tex`, `sweep.html` and `figures/`; --s2 adds DynaTree's own result files. Reads summaries;
records only for figures, page and --s2, which --out makes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from specexp.report import papers
from specexp.report.columns import Row, short, visible
from specexp.report.formats import csv_text, json_text, latex, markdown
from specexp.report.rows import make_rows, notes
from specexp.report.runs import Parser, Run, find_runs

EPILOG = """\
python -m specexp.report multirun/2026-01-31/12-00-00-000000                   the sweep's table, fastest first
python -m specexp.report multirun/... --format latex > table.tex              for a paper (booktabs)
python -m specexp.report multirun/... --columns label,speedup,method.gamma --sort method.gamma
python -m specexp.report multirun/... --out report                            tables, figures and a page to browse, into report/
python -m specexp.report compare RUN_A RUN_B                                  paired tests of two runs on the same examples
python -m specexp.report explain RUN                                          where a round's time goes, and the ceiling
python -m specexp.report tree RUN                                             a round's token tree
python -m specexp.report ablation DIR                                         a line per run and prompt, as CSV
python -m specexp.report glossary                                             what every figure means
python -m specexp.report sync DIR | xargs wandb sync                          upload what W&B logged offline
python -m specexp.report wandb DIR                                            a W&B Report of a sweep
"""
FORMATS = ("markdown", "latex", "csv", "json")


def main(arguments: Sequence[str]) -> None:
    options = _parsed(arguments)
    runs = find_runs(options.directories)
    rows = in_order(make_rows(runs), options.sort)
    print(text(rows, notes(runs), options.format, options.columns), end="")
    if options.out:
        write(runs, rows, options.out, options.s2)
        print(f"written to {options.out}", file=sys.stderr)


def text(rows: Sequence[Row], below: Sequence[str], form: str = "markdown", chosen: Sequence[str] | None = None) -> str:
    """The table in one of FORMATS; `below`: notes under it. `chosen`: keys of columns, instead of those that say something."""
    if form == "csv":
        return csv_text(rows)
    if form == "json":
        return json_text(rows, below)
    columns = visible(rows, chosen)
    return markdown(columns, rows, below) if form == "markdown" else latex(columns if chosen else short(columns), rows, below)


def in_order(rows: list[Row], key: str | None) -> list[Row]:
    """By any figure or setting, `-KEY` from high to low, rows without it last; as they are without a key."""
    if key is None:
        return rows
    [column] = visible(rows, [key.lstrip("-")])
    known = [row for row in rows if row.get(column.key) is not None]
    return sorted(known, key=lambda row: _sortable(row[column.key]), reverse=key.startswith("-")) + [r for r in rows if r not in known]


def _sortable(value: object) -> tuple[bool, float, str]:
    """Numbers before texts, also where a setting is a number written as text."""
    try:
        return False, float(value), ""
    except (TypeError, ValueError):
        return True, 0.0, str(value)


def write(runs: Sequence[Run], rows: Sequence[Row], directory: Path, s2: bool = False) -> None:
    """All files of a report. Raises UserError where they cannot be written."""
    from specexp.report.formats import page
    from specexp.tracking.records import write_whole

    _make(directory)
    below = notes(runs)
    for form, ending in zip(FORMATS, ("md", "tex", "csv", "json"), strict=True):
        write_whole(directory / f"sweep.{ending}", text(rows, below, form))
    pictures = _figures(rows, directory / "figures")
    write_whole(directory / "sweep.html", page(runs, rows, below, pictures))
    if papers.wanted(runs):
        write_whole(directory / "ablation.csv", papers.text(runs))
    if s2:
        from specexp.report.papers import write_files

        write_files(runs, directory)


def _figures(rows: Sequence[Row], directory: Path) -> dict[str, bytes]:
    """Title -> PNG of every figure that the runs allow; none, and a line that says so, where matplotlib is not installed."""
    try:
        from specexp.report.figures import write_figures
    except ImportError:
        print("no figures: matplotlib is not installed (pip install 'specexp[report]').", file=sys.stderr)
        return {}
    return write_figures(rows, directory)


def _make(directory: Path) -> None:
    from specexp.errors import UserError

    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {directory} ({error.strerror}); choose another directory with --out DIR.") from error


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser("", __doc__, EPILOG)
    parser.add_argument("directories", type=Path, nargs="+", metavar="DIR", help="run or sweep directories")
    parser.add_argument("--format", choices=FORMATS, default="markdown", help="of what is printed")
    parser.add_argument("--columns", type=lambda value: value.split(","), metavar="KEY,KEY", help="any figures or settings, in this order")
    parser.add_argument("--sort", metavar="KEY", help="by this figure or setting; -KEY (as --sort=-KEY): from high to low")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write tables, figures and page there")
    parser.add_argument("--s2", action="store_true", help="with --out: DynaTree's own result files, too")
    return parser.parse_args(arguments)
