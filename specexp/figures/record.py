"""The one schema of records.jsonl: what one example's texts were, on every side of a run, and what they took.

Counts are recorded and ratios derived. Keys on disk never change their meaning; a key that older runs lack has a default here and nowhere
else, so that they stay readable. The annotations say of what kind each value is, and nothing else is read. Knows nothing of files, models
or scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from math import nan
from types import UnionType
from typing import get_args, get_origin, get_type_hints

MEANS = ("ttft_seconds", "decode_seconds", "target_seconds", "draft_seconds")  # on disk as means over the repeats


@dataclass(frozen=True)
class Repeat:
    """One timing of one generation, from the request to the first emission and from there to the last one.

    tokens: emitted; first_tokens: those of the first emission, which `decode_seconds` did not pay for. rounds: emissions after the first
    one; drafted: tokens drafted in those. target_seconds, draft_seconds: host time of those rounds, None where that is not known.
    cpu_seconds: time that all cores together gave to this process, the prefill's included; None where it is not known.
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
    cpu_seconds: float | None = None

    @property
    def decoded_tokens(self) -> int:
        """Tokens after the first emission: those that `decode_seconds` paid for."""
        return max(self.tokens - self.first_tokens, 0)

    @property
    def request_seconds(self) -> float:
        """The whole request's: up to the first emission, and from there to the last one."""
        return self.ttft_seconds + self.decode_seconds


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
    tree: Mapping[str, object] | None = None
    ends: Sequence[int] | None = None
    score: Mapping[str, object] = field(default_factory=dict)
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
    speculation: Mapping[str, object] | None = None
    reasoning: str | None = None

    @property
    def tokens(self) -> int:
        """By ids; a server that gives none says how many there were."""
        return self.num_tokens if self.token_ids is None else len(self.token_ids)

    @property
    def content(self) -> Sequence[int] | str:
        """What two sides are compared by: ids, or the text where a server gives none, with the reasoning before it."""
        return (self.reasoning or "") + self.text if self.token_ids is None else self.token_ids

    @property
    def timed_rounds(self) -> Sequence[Sequence[int]]:
        """Those that decode seconds paid for: all but one that made the first emission."""
        return self.rounds[self.first_rounds :]

    @property
    def drafted(self) -> int:
        return sum(counts[0] for counts in self.rounds)

    @property
    def accepted(self) -> int:
        return sum(counts[1] for counts in self.rounds)

    @property
    def draft_forwards(self) -> int:
        return sum(self.draft_forwards_by_model.values())

    @property
    def request_seconds(self) -> float:
        """Of a whole request, as a mean over the repeats."""
        return self.mean("ttft_seconds") + self.mean("decode_seconds")

    def mean(self, name: str) -> float | None:
        """Of a field or property of the repeats; None where one of them does not know it."""
        values = [getattr(repeat, name) for repeat in self.repeats]
        return None if None in values else sum(values) / len(values)

    def to_json(self) -> dict[str, object]:
        """What stands in records.jsonl: all fields, the means over the repeats, and the sum over draft models."""
        content = {each.name: getattr(self, each.name) for each in fields(self)}
        content["repeats"] = [{each.name: getattr(repeat, each.name) for each in fields(repeat)} for repeat in self.repeats]
        content |= {key: self.mean(key) for key in MEANS}
        return content | {"first_tokens": self.repeats[0].first_tokens, "draft_forwards": self.draft_forwards}

    @classmethod
    def from_json(cls, content: Mapping[str, object]) -> SideRecord:
        """The side that `to_json` gave, or one of an older run. Raises ValueError for a value that is missing or of a wrong kind."""
        older = {"draft_forwards_by_model": {"draft": content["draft_forwards"]}} if "draft_forwards" in content else {}
        side = cls(repeats=(), **_values(cls, older | content, "repeats"))
        if side.tokens is None:
            raise ValueError("lacks token_ids")
        if not all(2 <= len(counts) <= 5 for counts in side.rounds):
            raise ValueError("has rounds of a wrong kind")
        told = _checked("repeats", content.get("repeats", ()), Sequence[Mapping[str, object]]) or [side._one_repeat(content)]
        return replace(side, repeats=tuple(Repeat(**_values(Repeat, repeat)) for repeat in told))

    def _one_repeat(self, content: Mapping[str, object]) -> dict[str, object]:
        """Of a run older than the repeats: one set of times, which are means."""
        emissions = max((self.chunks or 0) - 1, 0) if self.token_ids is None else len(self.timed_rounds)
        counts = {"first_tokens": 1, "tokens": self.tokens, "rounds": emissions, "drafted": sum(each[0] for each in self.timed_rounds)}
        return counts | {key: content[key] for key in ("first_tokens", *MEANS) if key in content}


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

    @property
    def baseline(self) -> SideRecord | None:
        return self.sides.get("baseline")

    def to_json(self) -> dict[str, object]:
        named = {"id": self.id, "sample": self.sample, "prompt": self.prompt, "weights": self.weights, "order": list(self.order)}
        return named | {name: side.to_json() for name, side in self.sides.items()}

    @classmethod
    def from_json(cls, content: Mapping[str, object]) -> Record:
        """The record that `to_json` gave, or one of an older run. Raises ValueError for a value that is missing or of a wrong kind."""
        values = _values(cls, {"order": ()} | content, "sides")
        named = [key for key in content if key in ("method", "baseline") or key.startswith("baseline_")]
        sides = {name: _side(name, content[name]) for name in named}
        if "method" not in sides:
            raise ValueError("lacks method")
        return cls(sides=sides, **values)


def _side(name: str, content: object) -> SideRecord:
    """Raises ValueError, with the side's name in it."""
    try:
        return SideRecord.from_json(_checked(name, content, Mapping[str, object]))
    except ValueError as error:
        raise ValueError(f"{error} in {name!r}") from error


def _values(cls: type, content: Mapping[str, object], apart: str | None = None) -> dict[str, object]:
    """What the content has of the class's fields, without one that is read `apart`. Raises ValueError for a value that is missing, or of
    another kind than the annotated one."""
    wanted = [each for each in fields(cls) if each.name != apart]
    if missing := [each.name for each in wanted if each.name not in content and each.default is each.default_factory is MISSING]:
        raise ValueError(f"lacks {missing[0]}")
    return {each.name: _checked(each.name, content[each.name], _kinds(cls)[each.name]) for each in wanted if each.name in content}


_kinds = cache(get_type_hints)


def _checked(name: str, value: object, kind: object) -> object:
    """The value, if it is of this kind. A null stands for NaN, too, since JSON has no number for that."""
    if value is None and kind is float:
        return nan
    if not _fit([value], kind):
        raise ValueError(f"has {name} of a wrong kind")
    return value


TYPES = {float: (float, int), Sequence: (list, tuple), Mapping: (dict,)}  # of the values that JSON gives for an annotation


@cache
def _options(kind: object) -> list[tuple[tuple[type, ...], object | None]]:
    """Of each kind that a union allows, or of the only one: the types of its values, and the kind of what is in them."""
    options = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    origins = [(get_origin(option) or option, get_args(option)) for option in options]
    return [(TYPES.get(origin, (origin,)), inner[-1] if inner else None) for origin, inner in origins]


def _fit(values: Sequence[object], kind: object) -> bool:
    """Whether all of the values, and what is in them, are of the annotated kind."""
    if kind is object:
        return True
    fitting = 0
    for types, inner in _options(kind):
        own = [value for value in values if type(value) in types]
        fitting += len(own)
        if inner and not _fit([each for value in own for each in (value.values() if types is TYPES[Mapping] else value)], inner):
            return False
    return fitting == len(values)
