"""The speed, acceptance, memory and perplexity figures of a run, computed from its records alone.

Knows records and nothing of models, texts or scores. Every figure is a number or None: None says that it does not exist here (nothing
drafted, one token only, no baseline, not measured on this device), and no figure is NaN or infinite.

Decoding runs from the first emission to the last, so the tokens of the first emission (`first_tokens`) are not counted in decode
throughput; tokens are counted by ids. A text that comes in one piece (beam search knows no token before the end, a proxy may hold a served
one up) has no such time: its first token comes with its last. Speedups by or over a side that gives most of its texts so compare whole
requests. Totals come before ratios: an average of
per-prompt rates is given only under its own name, with its sample standard deviation (`NAME_mean`, `NAME_std`), as published tables do.

The last part says how sure a figure is: the 95 % interval of a ratio of rates over prompts, and of a mean, both by Student's t. An interval
speaks for other prompts of the same kind on this machine in this state; it does not know of a machine that slowed down halfway. There is
none below FEWEST prompts, since so few do not show how much prompts differ. scipy.special, which it uses, loads in a fifth of a second;
scipy.stats would take a whole one, in every report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import exp, isfinite, log, sqrt
from statistics import mean, stdev

import numpy as np
from scipy.special import stdtrit

from specexp.figures.acceptance import acceptance_figures, length_figures, origin_figures, quotient, told_totals, tree_figures
from specexp.figures.cost import cost_figures
from specexp.figures.record import Record, SideRecord

Figures = dict[str, float | int | None]
FEWEST = 5  # prompts that an interval wants


def summarise_speed(records: Sequence[Record]) -> Figures:
    """All figures of `records`, flat: the method's unprefixed, a baseline's after its side's name (`baseline_tpot`,
    `baseline_captured_tpot`).

    `speedup`, `predicted_speedup` and `efficiency` are against the side "baseline"; against "baseline_NAME" stand `speedup_vs_NAME`,
    `speedup_low_vs_NAME` and so on.
    """
    ids, method = [record.id for record in records], [record.method for record in records]
    figures: Figures = {"num_examples": len(set(ids)), "num_samples": len(ids)}
    figures |= side_figures(method) | acceptance_figures(method) | tree_figures(method) | length_figures(method) | origin_figures(method)
    for name in baseline_names(records):
        baseline = [record.sides[name] for record in records]
        figures |= {f"{name}_{key}": value for key, value in (side_figures(baseline) | drafting_figures(baseline)).items()}
        figures |= _renamed(name, speedup_figures(ids, method, baseline) | {"equal_texts": equal_texts(method, baseline)})
    figures |= cost_figures(method, figures.get("baseline_tpot"), figures.get("speedup"))
    return {key: None if value is None or not isfinite(value) else value for key, value in figures.items()}


def baseline_names(records: Sequence[Record]) -> list[str]:
    """The baseline sides of a run, in the order of its first record."""
    return [name for name in records[0].sides if name != "method"] if records else []


def _renamed(side: str, figures: Figures) -> Figures:
    """speedup_low -> speedup_low_vs_NAME for the side baseline_NAME; unchanged for the side "baseline"."""
    return figures if side == "baseline" else {f"{key}_vs_{side.removeprefix('baseline_')}": value for key, value in figures.items()}


def side_figures(sides: Sequence[SideRecord]) -> Figures:
    """What every side has, baseline or method: timing, forwards, memory (the largest of any example, bytes), perplexity, spread.

    `block_efficiency` = emitted tokens per target call, the prefill among the calls: 1 for autoregressive decoding.
    `compression_count` = rounds in which the target's cache evicted, `tokens_evicted` = the tokens it dropped; sums.
    """
    forwards = sum(side.target_forwards for side in sides)
    return timing_figures(sides) | {
        "target_forwards": forwards,
        "draft_forwards": sum(side.draft_forwards for side in sides),
        "block_efficiency": quotient(sum(side.tokens for side in sides), forwards),
        "kv_bytes_target": _largest(sides, "kv_bytes_target"),
        "kv_bytes_draft": _largest(sides, "kv_bytes_draft"),
        "compression_count": sum(side.compression_count for side in sides),
        "tokens_evicted": sum(side.tokens_evicted for side in sides),
        "peak_mem_allocated": _largest(sides, "peak_memory_bytes"),
        "perplexity": perplexity(sides),
    } | spread_figures(sides)


def cpu_share(records: Sequence[Record], threads: int) -> float | None:
    """Which part of the time of `threads` cores this process had while it decoded, over all sides that know it: near 1 on a machine that
    does nothing else, and half where another process as busy runs beside it."""
    repeats = [repeat for record in records for side in record.sides.values() for repeat in side.repeats if repeat.cpu_seconds is not None]
    return quotient(sum(repeat.cpu_seconds for repeat in repeats), threads * sum(repeat.request_seconds for repeat in repeats))


def drafting_figures(sides: Sequence[SideRecord]) -> Figures:
    """The acceptance of a baseline that drafts too (transformers' assisted generation, say), without the rates by position; nothing of one
    that drafts nothing."""
    figures = acceptance_figures(sides)
    return {key: value for key, value in figures.items() if not key[-1].isdigit()} if figures["num_draft_tokens"] else {}


def _largest(sides: Sequence[SideRecord], key: str) -> int | None:
    return max((value for side in sides if (value := getattr(side, key)) is not None), default=None)


LARGEST_EXPONENT = 700.0  # exp() of more is not a float


def perplexity(sides: Sequence[SideRecord]) -> float | None:
    """exp of the mean negative log-likelihood (nats) per token over all sides; None without a token or beyond what a float holds."""
    mean = quotient(sum(side.nll_sum for side in sides), sum(side.nll_count for side in sides))
    return None if mean is None or not mean < LARGEST_EXPONENT else exp(mean)


def equal_texts(method: Sequence[SideRecord], baseline: Sequence[SideRecord]) -> float | None:
    """Share of examples whose token ids are the baseline's, one by one; whose texts are, where a server gives no ids."""
    return quotient(sum(m.content == b.content for m, b in zip(method, baseline, strict=True)), len(method))


def example_figures(record: Record) -> Figures:
    """One record's own row, for trackers and plots: tokens, times, and against the side "baseline" (where there is one) the speedup."""
    figures = summarise_speed([record])
    wanted = ("num_tokens", "ttft", "tpot", "baseline_tpot", "speedup", "mean_acceptance_length", "draft_acceptance_rate", "equal_texts")
    return {key: figures[key] for key in wanted if key in figures}


def decoding(side: SideRecord) -> tuple[float, float]:
    """Tokens and the seconds they took, summed over repeats, the prefill left out. Seconds in which no token came are none of decoding."""
    timed = [repeat for repeat in side.repeats if repeat.decoded_tokens]
    return sum(repeat.decoded_tokens for repeat in timed), sum(repeat.decode_seconds for repeat in timed)


def whole_request(side: SideRecord) -> tuple[float, float]:
    """Tokens and the seconds they took, summed over repeats, the prefill among them."""
    return sum(repeat.tokens for repeat in side.repeats), sum(repeat.request_seconds for repeat in side.repeats)


def timing_figures(sides: Sequence[SideRecord]) -> dict[str, float | int | None]:
    """Of one side over all records. Seconds, and tokens per second; None where nothing was timed.

    `ttft` and `e2e_latency` are means per request. `tpot` = decode seconds / decoded tokens, pooled, and `output_tps_per_user` its inverse;
    `output_tps` = all tokens / all seconds, prefill included. `itl` is the mean gap between emissions and `tokens_per_emission` what comes
    in one: under speculation several tokens.
    """
    decoded, decode = map(sum, zip(*map(decoding, sides), strict=True)) if sides else (0, 0.0)
    tokens, seconds = map(sum, zip(*map(whole_request, sides), strict=True)) if sides else (0, 0.0)
    later = sum(repeat.rounds for side in sides for repeat in side.repeats)
    return {
        "num_tokens": sum(side.tokens for side in sides),
        "ttft": quotient(sum(side.mean("ttft_seconds") for side in sides), len(sides)),
        "tpot": quotient(decode, decoded),
        "itl": quotient(decode, later),
        "tokens_per_emission": quotient(decoded, later),
        "e2e_latency": quotient(sum(side.request_seconds for side in sides), len(sides)),
        "output_tps": quotient(tokens, seconds),
        "output_tps_per_user": quotient(decoded, decode),
        "unequal_repeats": sum(not side.repeats_agree for side in sides),
    }


def speedup_figures(ids: Sequence[str], method: Sequence[SideRecord], baseline: Sequence[SideRecord]) -> dict[str, float | None]:
    """Of `method` over `baseline`, whose sides belong to the prompts `ids` in the same order (an id occurs once per sample or repeat).

    `speedup` = ratio of decode throughputs over all prompts; `speedup_low` and `_high` its 95 % interval over prompts, None where it has
    none (`rate_ratio_interval`); `speedup_geomean` = the prompts' own ratios' geometric mean; `e2e_speedup` includes the prefill, and so do
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


def counted_time(*groups: Sequence[SideRecord]) -> Callable[[SideRecord], tuple[float, float]]:
    """The function that gives a side's tokens and the seconds they took, for comparing these groups of sides: decoding alone, or the whole
    request where one of the groups gives more than half of its texts in one piece."""
    return whole_request if any(map(_in_pieces, groups)) else decoding


def _in_pieces(sides: Sequence[SideRecord]) -> bool:
    return 2 * sum(map(in_one_piece, sides)) > sum(side.tokens > 1 for side in sides)


def in_one_piece(side: SideRecord) -> bool:
    """A text of several tokens, of which none came after the first emission."""
    return side.repeats[0].first_tokens > 1 and not side.repeats[0].decoded_tokens


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


def spread_figures(sides: Sequence[SideRecord]) -> dict[str, float | None]:
    """`NAME_mean` and `NAME_std` of seconds, tokens per second, perplexity and acceptance of the requests that have such a figure."""
    figures: dict[str, float | None] = {}
    for name, values in {
        "ttft": [side.mean("ttft_seconds") for side in sides],
        "tpot": [quotient(seconds, tokens) for tokens, seconds in map(decoding, sides)],
        "e2e_latency": [side.request_seconds for side in sides],
        "output_tps": [quotient(*whole_request(side)) for side in sides],
        "output_tps_per_user": [quotient(*decoding(side)) for side in sides],
        "perplexity": [perplexity([side]) for side in sides],
        "draft_acceptance_rate": [quotient(each.accepted, each.drafted) for each in (told_totals(side) or side for side in sides)],
    }.items():
        known = [value for value in values if value is not None]
        figures[f"{name}_mean"] = mean(known) if known else None
        figures[f"{name}_std"] = stdev(known) if len(known) > 1 else None
    return figures


def rate_ratio_interval(prompts: np.ndarray, level: float = 0.95) -> tuple[float, float] | None:
    """Interval of (sum a / sum b) / (sum c / sum d) over `prompts` [K, 4] with columns a, b, c, d; None where fewer than FEWEST took time.

    The standard error of the ratio's logarithm is the jackknife's, which leaves out each prompt once. The degrees of freedom are one less
    than the number of prompts that really count, 1 / (sum of squared shares) in the column where one prompt has the largest share: if a few
    long prompts make up most of a total, they are fewer than K. The interval covers 94 to 97 % over 5 to 100 prompts whose lengths and
    speedups are log-normal (simulated in the tests). A bootstrap by percentiles covers 87 to 95 % there, and its BCa form 80 to 93 %.
    """
    timed = prompts[prompts.any(axis=1)]
    if len(timed) < FEWEST:
        return None
    totals = timed.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        without, centre = log_rate_ratio(totals - timed), log_rate_ratio(totals)
        shares = timed / totals
    if not np.isfinite([*without, centre]).all():
        return None
    error = sqrt((len(timed) - 1) / len(timed) * float(((without - without.mean()) ** 2).sum()))
    effective = 1 / float((shares**2).sum(axis=0).max())
    half = t_quantile((1 + level) / 2, max(effective - 1, 1.0)) * error
    return float(np.exp(centre - half)), float(np.exp(centre + half))


def log_rate_ratio(sums: np.ndarray) -> np.ndarray:
    """Logarithm of (a / b) / (c / d) over the last axis, whose entries are a, b, c, d; of a / b where it has two entries only."""
    rate = sums[..., 0] / sums[..., 1]
    return np.log(rate / (sums[..., 2] / sums[..., 3]) if sums.shape[-1] > 2 else rate)


def t_quantile(probability: float, freedom: float) -> float:
    """The value that Student's t with so many degrees of freedom (which may be fractional) stays below with this probability."""
    return float(stdtrit(freedom, probability))


def half_width(deviation: float, count: int, level: float = 0.95) -> float:
    """Half of the `level` interval of a mean of `count` values with this standard deviation, by Student's t. ValueError below two."""
    if count < 2:
        raise ValueError(f"an interval of a mean wants two values or more, got {count}")
    return t_quantile((1 + level) / 2, count - 1) * deviation / sqrt(count)
