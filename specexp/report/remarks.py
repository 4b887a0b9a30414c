"""What is said below a run's table, in whole sentences from the facts of its summary: what explains a figure, what makes it unsure, and
what a reader must not overlook. Computes no figure and knows no terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from specexp.figures.served import served_notes
from specexp.figures.speed import speedup_interval, why_no_interval

PLAIN, CARE, DANGER = "plain", "care", "danger"
SEALED = "bubblewrap"
HARDLY = 0.05  # acceptance below which a draft says nothing about the target's text
ENOUGH = 50  # drafted tokens, before that is said
BUSY_LOAD, BUSY_SHARE = 1.25, 0.5  # load per core, and the part of the cores' time that decoding had


@dataclass(frozen=True)
class Remark:
    """kind: PLAIN for what explains a figure, CARE for what limits it, DANGER for texts that are not the target's own."""

    text: str
    kind: str = PLAIN


def remarks(summary: Mapping[str, object]) -> list[Remark]:
    """The remarks on a flat summary, plain ones first. A fact that the summary lacks, as those of older runs do, gives none."""
    told = served_notes(summary) if "texts_in_one_piece" in summary else []  # a run without servers needs none
    explained = [*filter(None, [why_no_interval(summary)]), *_explained(summary), *told]
    found = [Remark(text) for text in explained]
    return found + [Remark(text, CARE) for text in _limited(summary)] + [Remark(text, DANGER) for text in _dangers(summary)]


def _explained(summary: Mapping[str, object]) -> Iterator[str]:
    speedup, interval = summary.get("speedup"), speedup_interval(summary)
    if speedup is not None and summary.get("drafts") and (interval[1] if interval else speedup) < 1:
        yield "Plain decoding is faster than this method on these prompts: drafting and verifying took more than they saved."
    rate, drafted = summary.get("draft_acceptance_rate"), summary.get("num_draft_tokens")
    if rate is not None and rate < HARDLY and (drafted or 0) >= ENOUGH:
        yield (
            f"The draft was almost never right ({100 * rate:.1f} % of {drafted} tokens): a draft model of the target's family, or for "
            "drafts that copy a text that repeats itself, would be kept more often."
        )
    if summary.get("drafts") and drafted == 0:
        yield "Nothing was drafted, so the method decoded plainly, and a speedup other than 1 is the machine's unsteadiness."
    equal = summary.get("equal_texts")
    if equal is not None and equal < 1 and summary.get("lossless") and summary.get("cache_exact", True):
        if summary.get("temperature"):
            yield "The texts differ because both sides draw at random; lossless means that they draw from the same distribution."
        elif summary.get("temperature") == 0:
            yield "Some texts differ by rounding: two tokens were nearly equally likely. In float32 this is rare."
    if summary.get("template_unused"):
        yield "The prompts were raw, though the tokenizer has a chat template: dataset.prompt_format=chat asks as in a chat."


def _limited(summary: Mapping[str, object]) -> Iterator[str]:
    load, share = summary.get("load_per_core"), summary.get("cpu_share")
    if load is not None and load > BUSY_LOAD:
        yield f"BUSY MACHINE: {load:.1f} processes per core wanted to run, so that seconds are too long, speedups unsteady; measure again."
    elif share is not None and share < BUSY_SHARE:
        yield f"BUSY MACHINE: decoding had only {100 * share:.0f} % of its threads' time, so that seconds are too long; measure again."
    if refused := (summary.get("num_errors") or 0) + (summary.get("baseline_num_errors") or 0):
        yield f"UNANSWERED: {refused} of the requests were refused for good; their prompts count in no figure, nor in the scores."
    if unequal := (summary.get("unequal_repeats") or 0) + (summary.get("baseline_unequal_repeats") or 0):
        yield f"REPEATS DIFFER: of {unequal} of the texts the repeats are other texts; rates are of the tokens and seconds of all of them."
    if summary.get("weights") == "standin":
        yield "STAND-INS: Llamas of the named sizes that write what the tiny pair writes; time and memory are theirs, texts and scores not."
    if (level := summary.get("sandbox", SEALED)) != SEALED:
        yield (
            f"NOT SEALED OFF: model-written code ran at sandbox level {level}, where it sees the user's files; `apt-get install "
            "bubblewrap` brings the sandbox that keeps them apart."
        )


def _dangers(summary: Mapping[str, object]) -> Iterator[str]:
    if summary.get("lossless") is False:
        yield "LOSSY: this method changes what the model says; its speedup is not that of lossless decoding."
    if summary.get("cache_exact") is False:
        yield "CACHE NOT EXACT: both sides ran with a cache that changes the model; compare with cache=full."
