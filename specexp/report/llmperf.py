"""A load run in LLMPerf's own two files, by its keys and definitions (ray-project/llmperf, token_benchmark_ray.py). From records alone.

Its inter-token latency is its own: the whole time up to the last text, first token included, over all tokens. Times of our tables are not.
"""

from __future__ import annotations

import re
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from specexp.figures.acceptance import quotient
from specexp.figures.record import Record
from specexp.figures.served import busy_seconds

VERSION = "2023-08-31"  # of LLMPerf's form
SUMMARISED = (
    "inter_token_latency_s", "ttft_s", "end_to_end_latency_s", "request_output_throughput_token_per_s", "number_input_tokens",
    "number_output_tokens",
)  # fmt: skip
QUANTILES = (25, 50, 75, 90, 95, 99)


def individual(record: Record) -> dict[str, object]:
    """One completed request."""
    side = record.method
    tokens, seconds = side.tokens, side.request_seconds
    return {
        "error_code": None,
        "error_msg": "",
        "inter_token_latency_s": quotient(seconds, tokens) or 0,
        "ttft_s": side.mean("ttft_seconds"),
        "end_to_end_latency_s": seconds,
        "request_output_throughput_token_per_s": quotient(tokens, seconds) or 0,
        "number_total_tokens": side.prompt_tokens + tokens,
        "number_output_tokens": tokens,
        "number_input_tokens": side.prompt_tokens,
    }


def failed(code: int, message: str) -> dict[str, object]:
    """One request without an answer."""
    return {"error_code": code, "error_msg": message} | dict.fromkeys(SUMMARISED, 0) | {"number_total_tokens": 0}


def summary(records: Sequence[Record], failures: Sequence[Mapping[str, object]], settings: Mapping[str, object]) -> dict[str, object]:
    """Flat. settings: model, mean_input_tokens, and so on. failures: as `failed` gives them."""
    requests, codes = [individual(record) for record in records], Counter(failure["error_code"] for failure in failures)
    seconds, started = busy_seconds(records), len(records) + len(failures)
    results = {
        **{key: _distribution([request[key] for request in requests]) for key in SUMMARISED},
        "num_requests_started": started,
        "error_rate": quotient(len(failures), started) or 0,
        "number_errors": len(failures),
        "error_code_frequency": str(dict(codes)),
        "mean_output_throughput_token_per_s": quotient(sum(request["number_output_tokens"] for request in requests), seconds),
        "num_completed_requests": len(requests),
        "num_completed_requests_per_min": quotient(60 * len(requests), seconds),
    }
    named = {"version": VERSION, "name": f"{file_stem(settings)}_summary", **settings, "results": results, "timestamp": int(time.time())}
    return dict(_flat(named, ""))


def file_stem(settings: Mapping[str, object]) -> str:
    """<model>_<in>_<out>, with dashes for what does not go into a file name."""
    name = "{model}_{mean_input_tokens}_{mean_output_tokens}".format(**settings)
    return re.sub(r"-{2,}", "-", re.sub(r"[^\w\d-]+", "-", name))



def _distribution(values: Sequence[float]) -> dict[str, object]:
    """As pandas describes values; null where there are none."""
    quantiles = {f"p{q}": float(np.percentile(values, q)) if values else None for q in QUANTILES}
    return {
        "quantiles": quantiles,
        "mean": statistics.fmean(values) if values else None,
        "min": min(values, default=None),
        "max": max(values, default=None),
        "stddev": statistics.stdev(values) if len(values) > 1 else None,
    }


def _flat(node: Mapping[str, object], path: str) -> Iterator[tuple[str, object]]:
    for key, value in node.items():
        name = f"{path}_{key}" if path else str(key)
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        else:
            yield name, value
