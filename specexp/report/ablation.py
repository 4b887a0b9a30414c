"""`python -m specexp.report ablation DIR...`: a line per run and prompt, in the columns of the EGAG and NASD ablation, as CSV.

What `experiment=ablation` leaves in its sweep's directory as ablation.csv. throughput: tokens per second of the prompt, prefill left out;
speedup: over the same prompt's baseline; acceptance_rate: of drafted tokens; mean_gamma: over rounds; mean_h: nats, of the first drafted
token's law where the policy looked at it. A setting that a method does not have is an empty cell.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from specexp.evaluation.quotient import quotient
from specexp.evaluation.timing import decoded_tokens
from specexp.report.rows import settings_of
from specexp.report.runs import Run, find_runs

SETTINGS = ("gamma", "gamma_min", "gamma_max", "ema", "order", "top_k_filler")
COLUMNS = ("method", *SETTINGS, "seed", "prompt_id", "tokens", "throughput", "speedup", "acceptance_rate", "mean_gamma", "mean_h")
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
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(line for run in runs for line in lines(run))
    return stream.getvalue()


def lines(run: Run) -> Iterator[dict]:
    """One per record of the run."""
    settings = settings_of(run)
    fixed = {key: settings.get(f"method.{key}") for key in SETTINGS} | {"method": run.method, "seed": settings.get("seed")}
    for record in run.records():
        method, baseline = record["method"], record.get("baseline")
        drafted, accepted = (sum(counts[part] for counts in method["rounds"]) for part in (0, 1))
        entropies = [nats for nats in method.get("entropies") or () if nats is not None]
        rate = _rate(method)
        yield fixed | {
            "prompt_id": record["id"], "tokens": len(method["token_ids"]), "throughput": rate,
            "speedup": quotient(rate, _rate(baseline)) if baseline else None, "acceptance_rate": quotient(accepted, drafted),
            "mean_gamma": quotient(drafted, len(method["rounds"])), "mean_h": quotient(sum(entropies), len(entropies)),
        }


def _rate(side: dict) -> float | None:
    return quotient(decoded_tokens(side), side["decode_seconds"])
