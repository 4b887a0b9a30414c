"""A table of rows written down: as markdown, LaTeX (booktabs), CSV and JSON, and as one self-contained HTML page to browse runs.

Markdown and LaTeX show the columns they are given; CSV and JSON hold every figure of every row, unrounded. The page has the table (it
sorts and filters, and its heads explain themselves), the figures, and of every run some texts coloured by where each token came from. It
needs no other file and no network, and whatever a model wrote is escaped. Knows rows, columns and records; computes no figure.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from specexp.figures.acceptance import KINDS, spans
from specexp.figures.record import Record
from specexp.report.columns import Column, Row, visible
from specexp.report.glossary import meaning
from specexp.report.rows import renamed
from specexp.report.runs import Run
from specexp.tracking.records import to_json

LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
         "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "γ": r"$\gamma$",
         "α": r"$\alpha$", "<": r"$<$", ">": r"$>$", "|": r"$|$"}


def markdown(columns: Sequence[Column], rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """A table, numbers to the right, and the notes below it."""
    lines = [[column.head for column in columns], [":---" if _is_text(column, rows) else "---:" for column in columns]]
    lines += [[column.text(row).replace("|", "\\|").replace("\n", " ") for column in columns] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "".join(f"\n{note}\n" for note in notes)


def latex(columns: Sequence[Column], rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    r"""A `tabular` for \input, the notes as comments; needs \usepackage{booktabs}. The highest speedup of measured rows is bold."""
    best = max((row["speedup"] for row in rows if row.get("speedup") and row["state"] == "finished"), default=None)
    body = [" & ".join(_cell(column, row, best) for column in columns) + r" \\" for row in rows]
    form = "".join("l" if _is_text(column, rows) else "r" for column in columns)
    head = " & ".join(escaped(column.head) for column in columns) + r" \\"
    lines = [*(f"% {' '.join(note.split())}" for note in notes), rf"\begin{{tabular}}{{{form}}}", r"\toprule", head, r"\midrule", *body,
             r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """`text` for LaTeX; a character that its usual fonts lack becomes a question mark."""
    return "".join(LATEX.get(character, character if character.isascii() else "?") for character in text)


def csv_text(rows: Sequence[Row]) -> str:
    """Every key of any row is a column, in the order in which the rows bring them; nothing is an empty cell."""
    plain = [renamed(row) for row in rows]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in plain for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain)
    return stream.getvalue()


def json_text(rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """{"results": rows, "summary": what DynaTree's result files end in, "notes": ...}."""
    measured = [row for row in rows if row["state"] == "finished"]
    methods = [row for row in measured if row["method"] != "baseline" and row.get("speedup") is not None]
    base = [row.get("output_tps_per_user") for row in measured if row["method"] == "baseline"]
    best = max(methods, key=lambda row: row["speedup"], default={})
    summary = {"baseline_throughput": base[0] if len(base) == 1 else None, "best_method": best.get("label"),
               "best_speedup": best.get("speedup"), "best_throughput": best.get("output_tps_per_user")}
    return to_json({"results": [renamed(row) for row in rows], "summary": summary, "notes": list(notes)}, indent=2) + "\n"


def _is_text(column: Column, rows: Sequence[Row]) -> bool:
    return any(isinstance(row.get(column.key), (str, bool)) for row in rows)


def _cell(column: Column, row: Row, best: object) -> str:
    text = escaped(column.text(row)) or "--"
    return rf"\textbf{{{text}}}" if column.key == "speedup" and best is not None and row.get("speedup") == best else text


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
        meaning=meaning,
    )


def _key(column: Column, row: Row) -> str:
    """What the cell is sorted by: its number before rounding, or its text."""
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


def _sample(record: Record) -> dict:
    method, baseline = record.method, record.baseline
    same = None if baseline is None else baseline.content == method.content
    return {"id": record.id, "prompt": record.prompt, "spans": spans(method), "score": _score_text(method.score), "same": same,
            "baseline": baseline.text if same is False else None, "accepted": method.accepted, "tokens": method.tokens,
            "rounds": len(method.rounds)}


def _score_text(score: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}" for key, value in score.items() if value != "")
