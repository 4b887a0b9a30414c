"""One self-contained HTML page to browse runs: the table (sortable), the figures, and of every run some texts coloured by token origin.

From rows and records alone; no other file, no network, nothing but the browser's own fonts. Whatever a model wrote is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from specexp.evaluation.origins import KINDS, spans
from specexp.evaluation.timing import content, token_count
from specexp.report.columns import Column, Row, visible
from specexp.report.runs import Run

SAMPLES = 8  # texts of each run
RUNS_SHOWN = 60  # with texts: the page stays a page


def page(runs: Sequence[Run], rows: Sequence[Row], notes: Sequence[str], pictures: Mapping[str, bytes], samples: int = SAMPLES) -> str:
    """The page. pictures: title -> PNG."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    columns = visible(rows)
    return environment.get_template("page.html.j2").render(
        columns=columns,
        rows=[(row, [(column.text(row), _key(column, row)) for column in columns]) for row in rows],
        notes=notes,
        pictures={title: base64.b64encode(picture).decode() for title, picture in pictures.items()},
        runs=list(_texts(runs, rows, samples)),
        left_out=max(0, len(runs) - RUNS_SHOWN),
        kinds=KINDS,
    )


def _key(column: Column, row: Row) -> str:
    """What the cell is sorted by: the number behind it, or its text."""
    value = row.get(column.key)
    return repr(float(value)) if isinstance(value, (bool, int, float)) else str(value or "")


def _texts(runs: Sequence[Run], rows: Sequence[Row], samples: int) -> Iterator[dict]:
    """In the table's order."""
    by_name = {run.name: run for run in runs}
    shown = [(by_name[row["run"]], row) for row in rows if row.get("run") in by_name][:RUNS_SHOWN]
    for run, row in shown:
        records = run.records()
        yield {"name": run.name, "label": row["label"], "count": len(records), "failure": run.failure,
               "samples": [_sample(record) for record in records[:samples]]}


def _sample(record: dict) -> dict:
    method, baseline = record["method"], record.get("baseline")
    same = None if baseline is None else content(baseline) == content(method)
    return {"id": record["id"], "prompt": record["prompt"], "spans": spans(method), "score": _told(method["score"]),
            "same": same, "baseline": baseline["text"] if same is False else None,
            "accepted": sum(counts[1] for counts in method["rounds"]), "tokens": token_count(method), "rounds": len(method["rounds"])}


def _told(score: dict) -> str:
    return ", ".join(f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}" for key, value in score.items() if value != "")
