"""S3's table of an ablation as CSV: one line per prompt and way of decoding it. From records alone.

throughput: tokens per second while decoding; mean_h: nats, of the draft's first distribution, where a draft-length policy looked at it.
What does not exist for a method is empty.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping

from specexp.evaluation.speed import summarise_speed

SETTINGS = ("gamma", "gamma_min", "gamma_max", "ema", "order", "top_k_filler")
COLUMNS = ("method", *SETTINGS, "seed", "prompt_id", "tokens", "throughput", "speedup", "acceptance_rate", "mean_gamma", "mean_h")
FIGURES = {
    "tokens": "num_tokens", "throughput": "output_tps_per_user", "speedup": "speedup", "acceptance_rate": "draft_acceptance_rate",
    "mean_gamma": "mean_gamma", "mean_h": "mean_entropy",
}  # fmt: skip


def row(record: dict, method: str, settings: Mapping[str, object], seed: int) -> dict[str, object]:
    """One line, by column. settings: of the method, by name."""
    figures = summarise_speed([record], resamples=0).figures
    chosen = {key: settings.get(key) for key in SETTINGS}
    return {"method": method, "seed": seed, "prompt_id": record["id"]} | chosen | {key: figures.get(name) for key, name in FIGURES.items()}


def as_csv(rows: Iterable[Mapping[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
