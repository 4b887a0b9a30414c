"""The speed, acceptance, memory and perplexity figures of a run, computed from its records alone.

Knows records (plain dicts, as in records.jsonl) and nothing of models, texts or scores. Every figure is a number or None: None says that
it does not exist here (nothing drafted, one token only, no baseline, not measured on this device), and no figure is NaN or infinite.

Decoding runs from the first emission to the last, so the tokens of the first emission (`first_tokens`) are not counted in decode
throughput; tokens are counted by ids. A text that comes in one piece (beam search knows no token before the end, a proxy may hold a served
one up) has no such time: its first token comes with its last. Speedups by or over a side that gives most of its texts so compare whole
requests. Totals come before ratios: an average of
per-prompt rates is given only under its own name, with its sample standard deviation (`NAME_mean`, `NAME_std`), as published tables do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, isfinite, log
from statistics import mean, stdev

import numpy as np

from specexp.figures.acceptance import (
    acceptance_figures,
    acceptance_histogram,
    acceptance_histogram_by_draft_length,
    length_figures,
    origin_figures,
    quotient,
    steps_of,
    token_count,
    totals_of,
    tree_figures,
)
from specexp.figures.cost import cost_figures, repeats
from specexp.figures.intervals import FEWEST, rate_ratio_interval

Figures = dict[str, float | int | None]


@dataclass(frozen=True)
class SpeedSummary:
    """`figures` is flat (summary.json takes it as it is); the histograms are counts of speculation steps."""
    figures: Figures
    acceptance_histogram: list[int]
    acceptance_histogram_by_draft_length: dict[int, list[int]]


def summarise_speed(records: Sequence[dict]) -> SpeedSummary:
    """All figures of `records`: the method's unprefixed, a baseline's after its side's name (`baseline_tpot`, `baseline_captured_tpot`).

    `speedup`, `predicted_speedup` and `efficiency` are against the side "baseline"; against "baseline_NAME" stand `speedup_vs_NAME`,
    `speedup_low_vs_NAME` and so on.
    """
    ids, method = [r["id"] for r in records], [r["method"] for r in records]
    figures: Figures = {"num_examples": len(set(ids)), "num_samples": len(ids)}
    figures |= side_figures(method) | acceptance_figures(method) | tree_figures(method) | length_figures(method) | origin_figures(method)
    for name in baseline_names(records):
        baseline = [r[name] for r in records]
        figures |= {f"{name}_{key}": value for key, value in side_figures(baseline).items()}
        figures |= _renamed(name, speedup_figures(ids, method, baseline) | {"equal_texts": equal_texts(method, baseline)})
    figures |= cost_figures(method, figures.get("baseline_tpot"), figures.get("speedup"))
    steps = [step for side in method for step in steps_of(side)]
    finite = {key: None if value is None or not isfinite(value) else value for key, value in figures.items()}
    return SpeedSummary(finite, acceptance_histogram(steps), acceptance_histogram_by_draft_length(steps))


def baseline_names(records: Sequence[dict]) -> list[str]:
    """The baseline sides of a run, in the order of its first record."""
    return [key for key in (records[0] if records else {}) if key == "baseline" or key.startswith("baseline_")]


def _renamed(side: str, figures: Figures) -> Figures:
    """speedup_low -> speedup_low_vs_NAME for the side baseline_NAME; unchanged for the side "baseline"."""
    return figures if side == "baseline" else {f"{key}_vs_{side.removeprefix('baseline_')}": value for key, value in figures.items()}


def side_figures(sides: Sequence[dict]) -> Figures:
    """What every side has, baseline or method: timing, forwards, memory (the largest of any example, bytes), perplexity, spread.

    `block_efficiency` = emitted tokens per target call, the prefill among the calls: 1 for autoregressive decoding.
    `compression_count` = rounds in which the target's cache evicted, `tokens_evicted` = the tokens it dropped; sums.
    """
    forwards = sum(s["target_forwards"] for s in sides)
    return timing_figures(sides) | {
        "target_forwards": forwards,
        "draft_forwards": sum(s["draft_forwards"] for s in sides),
        "block_efficiency": quotient(sum(map(token_count, sides)), forwards),
        "kv_bytes_target": _largest(sides, "kv_bytes_target"),
        "kv_bytes_draft": _largest(sides, "kv_bytes_draft"),
        "compression_count": sum(s.get("compression_count", 0) for s in sides),  # absent from records of older runs
        "tokens_evicted": sum(s.get("tokens_evicted", 0) for s in sides),
        "peak_mem_allocated": _largest(sides, "peak_memory_bytes"),
        "perplexity": perplexity(sides),
    } | spread_figures(sides)


def _largest(sides: Sequence[dict], key: str) -> int | None:
    return max((side[key] for side in sides if side[key] is not None), default=None)


def perplexity(sides: Sequence[dict]) -> float | None:
    """exp of the mean negative log-likelihood (nats) per token over all sides; None without a token or beyond what a float holds."""
    mean = quotient(sum(s["nll_sum"] for s in sides), sum(s["nll_count"] for s in sides))
    return None if mean is None or not mean < LARGEST_EXPONENT else exp(mean)


def equal_texts(method: Sequence[dict], baseline: Sequence[dict]) -> float | None:
    """Share of examples whose token ids are the baseline's, one by one; whose texts are, where a server gives no ids."""
    return quotient(sum(content(m) == content(b) for m, b in zip(method, baseline, strict=True)), len(method))


def example_figures(record: dict) -> Figures:
    """One record's own row, for trackers and plots: tokens, times, and against the side "baseline" (where there is one) the speedup."""
    figures = summarise_speed([record]).figures
    wanted = ("num_tokens", "ttft", "tpot", "baseline_tpot", "speedup", "mean_acceptance_length", "draft_acceptance_rate", "equal_texts")
    return {key: figures[key] for key in wanted if key in figures}


def content(side: dict) -> list[int] | str:
    """Ids; the text where a server gives none, with the reasoning before it."""
    return (side.get("reasoning") or "") + side["text"] if side["token_ids"] is None else side["token_ids"]


def decoded_tokens(side: dict) -> int:
    """Tokens of the recorded text after its first emission."""
    return max(token_count(side) - side["first_tokens"], 0)


def decoding(side: dict) -> tuple[float, float]:
    """Tokens and the seconds they took, summed over repeats, the prefill left out. Seconds in which no token came are none of decoding."""
    counted = [(tokens, each["decode_seconds"]) for each in repeats(side) if (tokens := each["tokens"] - each["first_tokens"]) > 0]
    return sum(tokens for tokens, _ in counted), sum(seconds for _, seconds in counted)


def whole_request(side: dict) -> tuple[float, float]:
    """Tokens and the seconds they took, summed over repeats, the prefill among them."""
    return sum(each["tokens"] for each in repeats(side)), sum(each["ttft_seconds"] + each["decode_seconds"] for each in repeats(side))


def timing_figures(sides: Sequence[dict]) -> dict[str, float | int | None]:
    """Of one side over all records. Seconds, and tokens per second; None where nothing was timed.

    `ttft` and `e2e_latency` are means per request. `tpot` = decode seconds / decoded tokens, pooled, and `output_tps_per_user` its inverse;
    `output_tps` = all tokens / all seconds, prefill included. `itl` is the mean gap between emissions and `tokens_per_emission` what comes
    in one: under speculation several tokens.
    """
    decoded, decode = map(sum, zip(*map(decoding, sides), strict=True)) if sides else (0, 0.0)
    tokens, seconds = map(sum, zip(*map(whole_request, sides), strict=True)) if sides else (0, 0.0)
    later = sum(each["rounds"] for side in sides for each in repeats(side))
    return {
        "num_tokens": sum(map(token_count, sides)),
        "ttft": quotient(sum(side["ttft_seconds"] for side in sides), len(sides)),
        "tpot": quotient(decode, decoded),
        "itl": quotient(decode, later),
        "tokens_per_emission": quotient(decoded, later),
        "e2e_latency": quotient(sum(side["ttft_seconds"] + side["decode_seconds"] for side in sides), len(sides)),
        "output_tps": quotient(tokens, seconds),
        "output_tps_per_user": quotient(decoded, decode),
        "unequal_repeats": sum(not side.get("repeats_agree", True) for side in sides),
    }


def speedup_figures(ids: Sequence[str], method: Sequence[dict], baseline: Sequence[dict]) -> dict[str, float | None]:
    """Of `method` over `baseline`, whose sides belong to the prompts `ids` in the same order (an id occurs once per sample or repeat).

    `speedup` = ratio of decode throughputs over all prompts; `speedup_low` and `_high` its 95 % interval over prompts, None where it has
    none (see intervals.py); `speedup_geomean` = geometric mean of the prompts' own ratios; `e2e_speedup` includes the prefill, and so do
    all of them where a side gives its texts in one piece.
    """
    spent = counted_time(method, baseline)
    pairs = [
        (name, spent(m), spent(b))
        for name, m, b in zip(ids, method, baseline, strict=True)
        if spent is whole_request or not (in_one_piece(m) or in_one_piece(b))
    ]
    clusters = _by_prompt(pairs)
    low, high = rate_ratio_interval(clusters) or (None, None)
    ratios = [ratio for row in clusters.tolist() if (ratio := _rate_ratio(*row))]
    return {
        "speedup": _rate_ratio(*clusters.sum(axis=0).tolist()),
        "speedup_low": low,
        "speedup_high": high,
        "speedup_geomean": exp(sum(map(log, ratios)) / len(ratios)) if ratios else None,
        "e2e_speedup": quotient(timing_figures(method)["output_tps"], timing_figures(baseline)["output_tps"]),
    }


def speedup_interval(figures: Mapping[str, object]) -> tuple[float, float] | None:
    """The 95 % interval of a summary's speedup; None where it has none, or one that an older version made of too few prompts."""
    low, high = figures.get("speedup_low"), figures.get("speedup_high")
    return None if low is None or high is None or figures.get("num_examples", FEWEST) < FEWEST else (low, high)


def why_no_interval(figures: Mapping[str, object]) -> str | None:
    """A sentence for a summary whose speedup has no interval; None for any other."""
    if figures.get("speedup") is None or speedup_interval(figures) is not None:
        return None
    count = figures.get("num_examples")
    if count is None or count >= FEWEST:
        return f"The speedup has no 95 % interval: fewer than {FEWEST} prompts were decoded for a measurable time."
    return f"The speedup has no 95 % interval: that takes {FEWEST} prompts, and there {'is' if count == 1 else 'are'} {count}."


def counted_time(*groups: Sequence[dict]) -> Callable[[dict], tuple[float, float]]:
    """The function that gives a side's tokens and the seconds they took, for comparing these groups of sides: decoding alone, or the whole
    request where one of the groups gives more than half of its texts in one piece."""
    return whole_request if any(map(_in_pieces, groups)) else decoding


def _in_pieces(sides: Sequence[dict]) -> bool:
    return 2 * sum(map(in_one_piece, sides)) > sum(token_count(side) > 1 for side in sides)


def in_one_piece(side: dict) -> bool:
    """A text of several tokens, of which none came after the first emission."""
    return side["first_tokens"] > 1 and not decoded_tokens(side)


def _by_prompt(pairs: Sequence[tuple[str, tuple, tuple]]) -> np.ndarray:
    """[prompts, 4]: the method's tokens and seconds, then the baseline's, summed over the samples of a prompt. pairs: (prompt, (tokens,
    seconds) of the method, those of the baseline)."""
    rows: dict[str, np.ndarray] = {}
    for name, m, b in pairs:
        row = np.array([*m, *b], dtype=float)
        rows[name] = rows.get(name, np.zeros(4)) + row
    return np.array(list(rows.values())).reshape(-1, 4)


def _rate_ratio(tokens: float, seconds: float, base_tokens: float, base_seconds: float) -> float | None:
    return quotient(quotient(tokens, seconds), quotient(base_tokens, base_seconds))


LARGEST_EXPONENT = 700.0  # exp() of more is not a float


def spread_figures(sides: Sequence[dict]) -> dict[str, float | None]:
    """`NAME_mean` and `NAME_std` of seconds, tokens per second, perplexity and acceptance of the requests that have such a figure."""
    figures: dict[str, float | None] = {}
    for name, values in {
        "ttft": [side["ttft_seconds"] for side in sides],
        "tpot": [quotient(seconds, tokens) for tokens, seconds in map(decoding, sides)],
        "e2e_latency": [side["ttft_seconds"] + side["decode_seconds"] for side in sides],
        "output_tps": [quotient(*whole_request(side)) for side in sides],
        "output_tps_per_user": [quotient(*decoding(side)) for side in sides],
        "perplexity": [_perplexity(side) for side in sides],
        "draft_acceptance_rate": [quotient(totals.accepted, totals.drafted) for side in sides if (totals := totals_of(side))],
    }.items():
        known = [value for value in values if value is not None]
        figures[f"{name}_mean"] = mean(known) if known else None
        figures[f"{name}_std"] = stdev(known) if len(known) > 1 else None
    return figures


def _perplexity(side: dict) -> float | None:
    nats = quotient(side["nll_sum"], side["nll_count"])
    return None if nats is None or not nats < LARGEST_EXPONENT else exp(nats)
