"""How long it took: first token, time per token, throughput, and the speedup of one side over another. Pure functions on records.

Decoding runs from the first emission to the last, so tokens of the first emission (`first_tokens`, 1 for our own loop) are not counted
in decode throughput; tokens are counted by ids. A side that gives each text in one piece (beam search knows no token before the end) has
no such time: its first token comes with its last, and speedups by or over it compare whole requests. Totals before ratios: an average of
per-prompt rates is given only under its own name.
"""
from collections.abc import Sequence
from math import exp, log

import numpy as np

from specexp.evaluation.bootstrap import rate_ratio_interval
from specexp.evaluation.quotient import quotient


def token_count(side: dict) -> int:
    """By ids; a server that tells none tells how many."""
    return side["num_tokens"] if side["token_ids"] is None else len(side["token_ids"])


def content(side: dict) -> list[int] | str:
    """Ids; the text where a server tells none."""
    return side["text"] if side["token_ids"] is None else side["token_ids"]


def later_emissions(side: dict) -> int:
    """Behind the first: rounds, or the chunks of a server that tells no rounds."""
    return max(side["chunks"] - 1, 0) if side["token_ids"] is None else len(side["rounds"])


def decoded_tokens(side: dict) -> int:
    """Tokens after the first emission: those that `decode_seconds` paid for."""
    return max(token_count(side) - side["first_tokens"], 0)


def timing_figures(sides: Sequence[dict]) -> dict[str, float | int | None]:
    """Of one side over all records. Seconds, and tokens per second; None where nothing was timed.

    `ttft` and `e2e_latency` are means per request. `tpot` = decode seconds / decoded tokens, pooled, and `output_tps_per_user` its inverse;
    `output_tps` = all tokens / all seconds, prefill included. `itl` is the mean gap between emissions and `tokens_per_emission` what comes
    in one: under speculation several tokens.
    """
    tokens, decoded = sum(map(token_count, sides)), sum(map(decoded_tokens, sides))
    first, decode = sum(s["ttft_seconds"] for s in sides), sum(s["decode_seconds"] for s in sides)
    later = sum(map(later_emissions, sides))
    return {
        "num_tokens": tokens,
        "ttft": quotient(first, len(sides)),
        "tpot": quotient(decode, decoded),
        "itl": quotient(decode, later),
        "tokens_per_emission": quotient(decoded, later),
        "e2e_latency": quotient(first + decode, len(sides)),
        "output_tps": quotient(tokens, first + decode),
        "output_tps_per_user": quotient(decoded, decode),
    }


def speedup_figures(
    ids: Sequence[str], method: Sequence[dict], baseline: Sequence[dict], seed: int = 0, resamples: int = 4000
) -> dict[str, float | None]:
    """Of `method` over `baseline`, whose sides belong to the prompts `ids` in the same order (an id occurs once per sample or repeat).

    `speedup` = ratio of decode throughputs over all prompts; `speedup_low` and `_high` its 95 % interval by resampling prompts, None with
    fewer than two; `speedup_geomean` = geometric mean of the prompts' own ratios; `e2e_speedup` includes the prefill, and so do all of
    them where a side gives its texts in one piece.
    """
    spent = _whole_request if _in_one_piece(method) or _in_one_piece(baseline) else _decoding
    clusters = _by_prompt(ids, [spent(side) for side in method], [spent(side) for side in baseline])
    low, high = rate_ratio_interval(clusters, resamples=resamples, seed=seed) or (None, None)
    ratios = [ratio for row in clusters.tolist() if (ratio := _rate_ratio(*row))]
    return {
        "speedup": _rate_ratio(*clusters.sum(axis=0).tolist()),
        "speedup_low": low,
        "speedup_high": high,
        "speedup_geomean": exp(sum(map(log, ratios)) / len(ratios)) if ratios else None,
        "e2e_speedup": quotient(timing_figures(method)["output_tps"], timing_figures(baseline)["output_tps"]),
    }


def _in_one_piece(sides: Sequence[dict]) -> bool:
    """Texts of several tokens, and never one after the first emission."""
    return any(side["first_tokens"] > 1 for side in sides) and not any(map(decoded_tokens, sides))


def _decoding(side: dict) -> tuple[float, float]:
    """Tokens and the seconds they took, the prefill left out."""
    return decoded_tokens(side), side["decode_seconds"]


def _whole_request(side: dict) -> tuple[float, float]:
    return token_count(side), side["ttft_seconds"] + side["decode_seconds"]


def _by_prompt(ids: Sequence[str], method: Sequence[tuple], baseline: Sequence[tuple]) -> np.ndarray:
    """[prompts, 4]: the method's tokens and seconds, then the baseline's, summed over the samples of a prompt."""
    rows: dict[str, np.ndarray] = {}
    for name, m, b in zip(ids, method, baseline, strict=True):
        row = np.array([*m, *b], dtype=float)
        rows[name] = rows.get(name, np.zeros(4)) + row
    return np.array(list(rows.values())).reshape(-1, 4)


def _rate_ratio(tokens: float, seconds: float, base_tokens: float, base_seconds: float) -> float | None:
    return quotient(quotient(tokens, seconds), quotient(base_tokens, base_seconds))
