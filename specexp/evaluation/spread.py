"""How much requests differ: mean and standard deviation over a side's requests, beside the pooled figures. Pure functions on records.

The pooled figure is the one to compare methods by; these are what published tables write as "mean ± std", and what an interval of a mean
is made of. The deviation is the sample's (divisor n - 1), None with fewer than two requests.
"""
from collections.abc import Sequence
from math import exp, sqrt
from statistics import mean, stdev

from specexp.evaluation.bootstrap import t_quantile
from specexp.evaluation.quotient import quotient
from specexp.evaluation.timing import decoded_tokens, token_count

LARGEST_EXPONENT = 700.0  # exp() of more is not a float


def spread_figures(sides: Sequence[dict]) -> dict[str, float | None]:
    """`NAME_mean` and `NAME_std` of seconds, tokens per second, perplexity and acceptance of the requests that have such a figure."""
    figures: dict[str, float | None] = {}
    for name, values in {
        "ttft": [side["ttft_seconds"] for side in sides],
        "tpot": [quotient(side["decode_seconds"], decoded_tokens(side)) for side in sides],
        "e2e_latency": [side["ttft_seconds"] + side["decode_seconds"] for side in sides],
        "output_tps": [quotient(token_count(side), side["ttft_seconds"] + side["decode_seconds"]) for side in sides],
        "output_tps_per_user": [quotient(decoded_tokens(side), side["decode_seconds"]) for side in sides],
        "perplexity": [_perplexity(side) for side in sides],
        "draft_acceptance_rate": [quotient(sum(r[1] for r in side["rounds"]), sum(r[0] for r in side["rounds"])) for side in sides],
    }.items():
        known = [value for value in values if value is not None]
        figures[f"{name}_mean"] = mean(known) if known else None
        figures[f"{name}_std"] = stdev(known) if len(known) > 1 else None
    return figures


def half_width(deviation: float, count: int, level: float = 0.95) -> float:
    """Half of the `level` interval of a mean of `count` values with this standard deviation, by Student's t. ValueError below two."""
    if count < 2:
        raise ValueError(f"an interval of a mean wants two values or more, got {count}")
    return t_quantile((1 + level) / 2, count - 1) * deviation / sqrt(count)


def _perplexity(side: dict) -> float | None:
    nats = quotient(side["nll_sum"], side["nll_count"])
    return None if nats is None or not nats < LARGEST_EXPONENT else exp(nats)
