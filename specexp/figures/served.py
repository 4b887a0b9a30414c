"""What is not as usual in the texts of served engines: figures, and the sentences that say so below a table.

A server shows chunks and not tokens, reports its own speculation or does not, and may fill a text with reasoning. Knows records and
summaries and nothing of servers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from specexp.figures.acceptance import quotient
from specexp.figures.record import Record
from specexp.figures.speed import in_one_piece

PERCENTILES = (50, 95, 99)
SIDES = {"method": "", "baseline": "baseline_"}  # and what their keys in a summary begin with
IN_ONE_PIECE = (
    "{count} of {texts} texts of the {side} arrived in one piece, or nearly so, as behind a proxy that holds a stream up: they have no "
    "time per token, and their time to first token is that of the whole text."
)
WHOLE = "Speedups therefore compare whole requests, the prefill included."
BUNCHED = (
    "Several tokens came with the first text in {count} of {texts} texts of the {side}, so that its time to first token is that of "
    "several. Decode speed leaves them out; how many they were is estimated, unless the server counts tokens with each chunk "
    "(method.body={{stream_options:{{continuous_usage_stats:true}}}}, where it can)."
)
NO_ANSWER = (
    "{count} of {texts} texts of the {side} hold reasoning and no answer: raise max_new_tokens, or turn reasoning off (for many models "
    "with method.api=chat method.body={{chat_template_kwargs:{{enable_thinking:false}}}})."
)
REPORTED = "Acceptance is what the server reports ({engine}) for {count} of {texts} texts{totals}."
TOTALS = ", in totals: rates by position, draft lengths and alpha are not known"
CONVENTION = {
    "SGLang": "A mean acceptance length is 1 + accepted / steps, as everywhere here; SGLang's own spec_accept_length counts the prefill's "
              "token too.",
    "llama.cpp": "llama.cpp counts no steps, so a mean acceptance length is not known.",
}
BASELINE_SPECULATES = "The baseline's server reports speculation of its own, so the speedup is not one over plain decoding."


def busy_seconds(records: Sequence[Record]) -> float:
    """Time in which any request was under way: pauses between sessions of a run are not counted."""
    sides = [record.method for record in records]
    spans = sorted((side.began, side.began + side.mean("ttft_seconds") + side.mean("decode_seconds")) for side in sides)
    total, reached = 0.0, float("-inf")
    for began, ended in spans:
        total += max(0.0, ended - max(began, reached))
        reached = max(reached, ended)
    return total


def request_figures(records: Sequence[Record]) -> dict[str, float | None]:
    """Of a load: `requests_per_second` over the time in which any request was under way, and percentiles over requests of the seconds to
    the first token (`ttft_percentile_50`, 95, 99) and of the whole request (`e2e_percentile_50`, ...)."""
    sides = [repeat for record in records for repeat in record.method.repeats]
    values = {"ttft": [each.ttft_seconds for each in sides], "e2e": [each.request_seconds for each in sides]}
    found: dict[str, float | None] = {"requests_per_second": quotient(len(records), busy_seconds(records))}
    shares = ((f"{name}_percentile_{q}", np.percentile(seconds, q)) for name, seconds in values.items() if seconds for q in PERCENTILES)
    return found | {key: float(value) for key, value in shares}


def served_figures(records: Sequence[Record]) -> dict[str, object]:
    """For the summary. Counts of texts by what is unusual in them, of the method and, behind `baseline_`, of a second server."""
    found: dict[str, object] = {}
    for name, prefix in SIDES.items():
        sides = [record.sides[name] for record in records if name in record.sides]
        told = [side for side in sides if side.speculation]
        figures = {
            "texts_in_one_piece": sum(map(in_one_piece, sides)),
            "texts_bunched": sum(side.repeats[0].first_tokens > 1 and not in_one_piece(side) for side in sides),
            "texts_without_answer": sum(bool(side.reasoning) and not side.text.strip() for side in sides),
            "texts_with_acceptance": len(told),
            "texts_with_totals_alone": sum(not side.rounds and bool(side.speculation["num_draft_tokens"]) for side in told),
        }
        found |= {f"{prefix}{key}": value for key, value in figures.items()} if sides else {}
        if told and name == "method":
            found["acceptance_told_by"] = told[0].speculation.get("engine", "specexp")  # older runs were told by our own server alone
    return found


def served_notes(summary: Mapping[str, object]) -> list[str]:
    """A sentence for everything in a summary that a reader of its table should know; none for a run without servers."""
    found, texts, whole = [], summary.get("num_samples"), False
    for side, prefix in SIDES.items():
        for key, sentence in (("texts_in_one_piece", IN_ONE_PIECE), ("texts_bunched", BUNCHED), ("texts_without_answer", NO_ANSWER)):
            if count := summary.get(f"{prefix}{key}"):
                found.append(sentence.format(count=count, texts=texts, side=side))
        whole = whole or 2 * (summary.get(f"{prefix}texts_in_one_piece") or 0) > (texts or 0)
    found += [WHOLE] if whole and summary.get("speedup") is not None else []
    if engine := summary.get("acceptance_told_by"):
        totals = TOTALS if summary.get("texts_with_totals_alone") else ""
        found.append(REPORTED.format(engine=engine, count=summary.get("texts_with_acceptance"), texts=texts, totals=totals))
        found += [CONVENTION[engine]] if engine in CONVENTION else []
    speculates = "baseline_texts_with_acceptance" in summary and summary.get("baseline_num_draft_tokens")
    return found + ([BASELINE_SPECULATES] if speculates else [])
