"""The one schema of records.jsonl: what one example's texts were, on every side of a run, and what they took.

Counts are recorded and ratios derived. Keys on disk never change their meaning; a key that older runs lack has a default here, so that
they stay readable. Knows nothing of files, models or scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

MEANS = ("ttft_seconds", "decode_seconds", "target_seconds", "draft_seconds")  # on disk as means over the repeats


@dataclass(frozen=True)
class Repeat:
    """One timing of one generation, from the request to the first emission and from there to the last one.

    tokens: emitted; first_tokens: those of the first emission, which `decode_seconds` did not pay for. rounds: emissions after the first
    one; drafted: tokens drafted in those. target_seconds, draft_seconds: host time of those rounds, None where that is not known.
    Worked example: a peer's first emission holds three tokens and its second the last two, so tokens = 5, first_tokens = 3, rounds = 1, and
    two decoded tokens were paid for by decode_seconds.
    """

    tokens: int
    first_tokens: int
    rounds: int
    drafted: int
    ttft_seconds: float
    decode_seconds: float
    target_seconds: float | None = None
    draft_seconds: float | None = None

    @property
    def decoded_tokens(self) -> int:
        """Tokens after the first emission: those that `decode_seconds` paid for."""
        return max(self.tokens - self.first_tokens, 0)


@dataclass(frozen=True)
class SideRecord:
    """One side's text of one example. Of several repeats the text and the counts are the first one's, and every repeat has its times.

    token_ids: None where a server tells none; num_tokens then says how many there were. rounds: [drafted, accepted] of each speculation
    round of a chain, [drafted, accepted, depth, leaves, refused] of a tree; first_rounds: how many of them (0 or 1) made the first
    emission, which no decode seconds paid for. origins: of each token. entropies: of each round, in nats, where a policy looked. tree: the
    first draft that was no chain. ends: characters of `text` up to and with each token. nll_sum, nll_count: nats under the target, and of
    how many tokens. chunks: texts that a server sent; reasoning: what it sent besides the answer; speculation: what it reports of its own.
    None: not known on this side.
    """

    repeats: tuple[Repeat, ...]
    text: str
    finish: str
    token_ids: Sequence[int] | None = None
    num_tokens: int | None = None
    rounds: Sequence[Sequence[int]] = ()
    first_rounds: int = 0
    origins: Sequence[str] = ()
    entropies: Sequence[float | None] | None = None
    tree: Mapping | None = None
    ends: Sequence[int] | None = None
    score: Mapping[str, float] = field(default_factory=dict)
    nll_sum: float = 0.0
    nll_count: int = 0
    target_forwards: int = 0
    draft_forwards_by_model: Mapping[str, int] = field(default_factory=dict)
    kv_bytes_target: int | None = None
    kv_bytes_draft: int | None = None
    compression_count: int = 0
    tokens_evicted: int = 0
    peak_memory_bytes: int | None = None
    lossless: bool | None = None
    cache_exact: bool | None = None
    repeats_agree: bool = True
    prompt_tokens: int | None = None
    chunks: int | None = None
    began: float | None = None
    attempts: int | None = None
    speculation: Mapping | None = None
    reasoning: str | None = None

    def mean(self, name: str) -> float | None:
        """Of a field or property of the repeats; None where one of them does not know it."""
        values = [getattr(repeat, name) for repeat in self.repeats]
        return None if None in values else sum(values) / len(values)

    @property
    def draft_forwards(self) -> int:
        return sum(self.draft_forwards_by_model.values())

    def to_json(self) -> dict[str, object]:
        """What stands in records.jsonl: all fields, the means over the repeats, and the sum over draft models."""
        content = {each.name: getattr(self, each.name) for each in fields(self)}
        content["repeats"] = [{each.name: getattr(repeat, each.name) for each in fields(repeat)} for repeat in self.repeats]
        content |= {key: self.mean(key) for key in MEANS}
        return content | {"first_tokens": self.repeats[0].first_tokens, "draft_forwards": self.draft_forwards}

    @classmethod
    def from_json(cls, content: Mapping) -> SideRecord:
        """Runs older than the repeats have one set of times, which are means."""
        known = {each.name for each in fields(cls)}
        values = {key: value for key, value in content.items() if key in known}
        ids = content.get("token_ids")
        tokens = content.get("num_tokens") if ids is None else len(ids)
        told = content.get("repeats")
        if told is None:
            chunks, rounds = content.get("chunks"), content.get("rounds", ())
            later = {"rounds": len(rounds) if chunks is None else max(chunks - 1, 0), "drafted": sum(counts[0] for counts in rounds)}
            told = [{"tokens": tokens, "first_tokens": content.get("first_tokens", 1)} | later | {key: content.get(key) for key in MEANS}]
        return cls(**values | {"repeats": tuple(Repeat(**repeat) for repeat in told)})


@dataclass(frozen=True)
class Record:
    """One example, decoded by every side. sides: "method", "baseline", "baseline_NAME". order: who went when.

    weights: "real", or "standin" where what is written is a tiny model's text.
    """

    id: str
    sample: int
    prompt: str
    order: Sequence[str]
    sides: Mapping[str, SideRecord]
    weights: str = "real"

    @property
    def method(self) -> SideRecord:
        return self.sides["method"]

    def to_json(self) -> dict[str, object]:
        named = {"id": self.id, "sample": self.sample, "prompt": self.prompt, "weights": self.weights, "order": list(self.order)}
        return named | {name: side.to_json() for name, side in self.sides.items()}

    @classmethod
    def from_json(cls, content: Mapping) -> Record:
        sides = {key: SideRecord.from_json(value) for key, value in content.items() if is_side(key)}
        return cls(content["id"], content["sample"], content["prompt"], content.get("order", ()), sides, content.get("weights", "real"))


def is_side(key: str) -> bool:
    """Whether a record's key names a side."""
    return key in ("method", "baseline") or key.startswith("baseline_")
