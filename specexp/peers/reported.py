"""What a server reports of its own speculation, in this project's counts: steps, drafted tokens, accepted ones.

Read are vLLM's `metrics.speculative_decoding` (its server's option --per-request-spec-decode-metrics), SGLang's `meta_info` and
`sglext.spec_tokens_details` (a request's field return_spec_tokens_details), llama.cpp's `timings`, and the block `speculation` of
`specexp serve`. Names differ, and so do definitions, hence only counts are taken: a mean acceptance length is 1 + accepted / steps here and
in vLLM, while SGLang's spec_accept_length is completion tokens / steps, which counts the prefill's token too. What does not fit together is
taken as not reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

VLLM, SGLANG, LLAMA_CPP, OWN = "vLLM", "SGLang", "llama.cpp", "specexp"
PLACES = {  # of the counts in a chunk, by engine; of a list its first entry is meant
    OWN: (("speculation",),),
    VLLM: (("metrics", "speculative_decoding"),),
    SGLANG: (("meta_info",), ("sglext", "spec_tokens_details"), ("choices", "meta_info"), ("choices", "sglext", "spec_tokens_details")),
    LLAMA_CPP: (("timings",),),
}
NAMES = {  # of our counts, as versions of these engines call them
    "steps": ("num_spec_steps", "spec_verify_ct"),
    "drafted": ("num_draft_tokens", "spec_num_proposed_drafts", "spec_proposed_drafts", "spec_draft_token_num", "draft_n"),
    "accepted": (
        "num_accepted_draft_tokens", "spec_num_correct_drafts", "spec_accepted_drafts", "spec_accept_token_num", "draft_n_accepted",
    ),
}  # fmt: skip
HISTOGRAMS = ("acceptance_histogram", "spec_correct_drafts_histogram", "spec_accept_histogram")


@dataclass(frozen=True)
class Speculation:
    """The counts of one text; None where the server does not tell them. rounds: [drafted, accepted] of each step, where it tells that much.
    histogram: [a] = steps that accepted exactly a drafted tokens. block: what our own server says besides.
    """

    engine: str = ""
    steps: int | None = None
    drafted: int | None = None
    accepted: int | None = None
    histogram: tuple[int, ...] | None = None
    rounds: tuple[tuple[int, int], ...] = ()
    block: Mapping = field(default_factory=dict)

    def to_json(self) -> dict[str, object] | None:
        """For the record, under the names of our own server; None where nothing is reported."""
        if not self.engine:
            return None
        counts = {"num_spec_steps": self.steps, "num_draft_tokens": self.drafted, "num_accepted_draft_tokens": self.accepted}
        return {**self.block, "engine": self.engine, **counts, "acceptance_histogram": self.histogram and list(self.histogram)}


NOTHING = Speculation()


def tells_speculation(chunk: Mapping) -> bool:
    """Whether a chunk of a stream holds such counts."""
    return _found(chunk) is not None


def told_speculation(chunk: Mapping, tokens: int) -> Speculation:
    """Of the chunk that told it last. tokens: all of the text, from which a version of SGLang that counts steps alone is understood."""
    if (found := _found(chunk)) is None:
        return NOTHING
    engine, block = found
    steps, drafted, accepted = (_first(block, NAMES[key]) for key in ("steps", "drafted", "accepted"))
    if accepted is None and engine == SGLANG and steps is not None:
        accepted = max(tokens - 1 - steps, 0)  # each step adds a token of the target's own, and the prefill one
    if accepted is None or (drafted is not None and accepted > drafted) or (steps is None and drafted is None):
        return NOTHING
    histogram = _histogram(block, steps, accepted)
    rounds = _rounds(block, steps, drafted, accepted) or _equal_rounds(block, steps, drafted, histogram)
    return Speculation(engine, steps, drafted, accepted, histogram, rounds, block if engine == OWN else {})


def whole_number(value: object) -> int | None:
    """A count as JSON may hold it; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if value >= 0 and value == value // 1 else None


def _found(chunk: Mapping) -> tuple[str, Mapping] | None:
    """(engine, its block) of the first block that holds a count."""
    for engine, places in PLACES.items():
        for place in places:
            block = _at(chunk, place)
            if isinstance(block, dict) and any(_first(block, names) is not None for names in NAMES.values()):
                return engine, block
    return None


def _at(node: object, place: Sequence[str]) -> object:
    for key in place:
        node = node.get(key) if isinstance(node, dict) else None
        node = (node[0] if node else None) if isinstance(node, list) else node
    return node


def _first(block: Mapping, names: Sequence[str]) -> int | None:
    return next((count for name in names if (count := whole_number(block.get(name))) is not None), None)


def _counts(value: object) -> tuple[int, ...] | None:
    """A list of counts; None for anything else."""
    counts = tuple(map(whole_number, value)) if isinstance(value, list) else (None,)
    return None if None in counts else counts


def _histogram(block: Mapping, steps: int | None, accepted: int) -> tuple[int, ...] | None:
    """The one that fits the counts."""
    for name in HISTOGRAMS:
        found = _counts(block.get(name))
        if found and sum(found) == steps and sum(place * count for place, count in enumerate(found)) == accepted:
            return found
    return None


def _rounds(block: Mapping, steps: int | None, drafted: int | None, accepted: int) -> tuple[tuple[int, int], ...]:
    """Step by step, as vLLM tells it where it is asked for details."""
    lengths, kept = _counts(block.get("per_step_drafted")), _counts(block.get("per_step_accepted"))
    if not lengths or not kept or len(lengths) != len(kept) or (len(kept), sum(lengths), sum(kept)) != (steps, drafted, accepted):
        return ()
    rounds = tuple(zip(lengths, kept, strict=True))
    return rounds if all(0 <= count <= length for length, count in rounds) else ()


def _equal_rounds(block: Mapping, steps: int | None, drafted: int | None, histogram: Sequence[int] | None) -> tuple[tuple[int, int], ...]:
    """From a histogram where every step drafted as many tokens as the server's setting allows; in which order they came is not known."""
    length = whole_number(block.get("num_spec_tokens"))
    if not histogram or not length or not steps or drafted != steps * length or any(histogram[length + 1 :]):
        return ()
    return tuple((length, kept) for kept, count in enumerate(histogram) for _ in range(count))
