"""`python -m specexp.report ablation DIR...`: a line per run and prompt, in the columns of the EGAG and NASD ablation, as CSV.

What `experiment=ablation` leaves in its sweep's directory as ablation.csv. throughput: tokens per second of the prompt, prefill left out;
speedup: over the same prompt's baseline; acceptance_rate: of drafted tokens; mean_gamma: over rounds; mean_h: nats, of the first drafted
token's law where the policy looked at it. A setting that a method does not have is an empty cell.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from specexp.evaluation.speed import summarise_speed
from specexp.report.rows import settings_of
from specexp.report.runs import Run, find_runs

SETTINGS = ("gamma", "gamma_min", "gamma_max", "ema", "order", "top_k_filler")
COLUMNS = ("method", *SETTINGS, "seed", "prompt_id", "tokens", "throughput", "speedup", "acceptance_rate", "mean_gamma", "mean_h")
FIGURES = {
    "tokens": "num_tokens", "throughput": "output_tps_per_user", "speedup": "speedup", "acceptance_rate": "draft_acceptance_rate",
    "mean_gamma": "mean_gamma", "mean_h": "mean_entropy",
}  # fmt: skip
NAME = "ablation"


def main(arguments: Sequence[str]) -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m specexp.report ablation", description=__doc__, formatter_class=layout)
    parser.add_argument("directories", type=Path, nargs="+", metavar="DIR", help="run or sweep directories")
    print(text(find_runs(parser.parse_args(arguments).directories)), end="")


def wanted(runs: Sequence[Run]) -> bool:
    """Whether these are the jobs of that experiment."""
    return any(run.overrides.get("experiment") == NAME for run in runs)


def text(runs: Sequence[Run]) -> str:
    return as_csv(line for run in runs for line in lines(run))


def lines(run: Run) -> Iterator[dict]:
    """One per record of the run."""
    settings = settings_of(run)
    own = {key: settings.get(f"method.{key}") for key in SETTINGS}
    for record in run.records():
        yield row(record, run.method, own, settings.get("seed"))


def row(record: dict, method: str, settings: Mapping[str, object], seed: int | None) -> dict[str, object]:
    """One line, by column. settings: of the method, by name."""
    figures = summarise_speed([record], resamples=0).figures
    chosen = {key: settings.get(key) for key in SETTINGS}
    return {"method": method, "seed": seed, "prompt_id": record["id"]} | chosen | {key: figures.get(name) for key, name in FIGURES.items()}


def as_csv(rows: Iterable[Mapping[str, object]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
