"""The speed, acceptance, memory and perplexity figures of a run, computed from its records alone.

Knows records (plain dicts, as in records.jsonl) and nothing of models, texts or scores. Every figure is a number or None: None says that
it does not exist here (nothing drafted, one token only, no baseline, not measured on this device), and no figure is NaN or infinite.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, isfinite

from specexp.evaluation.acceptance import (
    acceptance_figures,
    acceptance_histogram,
    acceptance_histogram_by_draft_length,
    length_figures,
    origin_figures,
    steps_of,
    tree_figures,
)
from specexp.evaluation.cost import cost_figures
from specexp.evaluation.quotient import quotient
from specexp.evaluation.spread import LARGEST_EXPONENT, spread_figures
from specexp.evaluation.timing import content, speedup_figures, timing_figures, token_count

Figures = dict[str, float | int | None]


@dataclass(frozen=True)
class SpeedSummary:
    """`figures` is flat (summary.json takes it as it is); the histograms are counts of speculation steps."""
    figures: Figures
    acceptance_histogram: list[int]
    acceptance_histogram_by_draft_length: dict[int, list[int]]


def summarise_speed(records: Sequence[dict], seed: int = 0, resamples: int = 4000) -> SpeedSummary:
    """All figures of `records`: the method's unprefixed, a baseline's behind its side's name (`baseline_tpot`, `baseline_captured_tpot`).

    `speedup`, `predicted_speedup` and `efficiency` are against the side "baseline"; against "baseline_NAME" stand `speedup_vs_NAME`,
    `speedup_low_vs_NAME` and so on.
    """
    ids, method = [r["id"] for r in records], [r["method"] for r in records]
    figures: Figures = {"num_examples": len(set(ids)), "num_samples": len(ids)}
    figures |= side_figures(method) | acceptance_figures(method) | tree_figures(method) | length_figures(method) | origin_figures(method)
    for name in baseline_names(records):
        baseline = [r[name] for r in records]
        figures |= {f"{name}_{key}": value for key, value in side_figures(baseline).items()}
        figures |= _renamed(name, speedup_figures(ids, method, baseline, seed, resamples) | {"equal_texts": equal_texts(method, baseline)})
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
    """Share of examples whose token ids are the baseline's, one by one; whose texts are, where a server tells no ids."""
    return quotient(sum(content(m) == content(b) for m, b in zip(method, baseline, strict=True)), len(method))


def example_figures(record: dict) -> Figures:
    """One record's own row, for trackers and plots: tokens, times, and against the side "baseline" (where there is one) the speedup."""
    figures = summarise_speed([record], resamples=0).figures
    wanted = ("num_tokens", "ttft", "tpot", "baseline_tpot", "speedup", "mean_acceptance_length", "draft_acceptance_rate", "equal_texts")
    return {key: figures[key] for key in wanted if key in figures}
