"""A generated text in pieces by where their tokens came from: draft (and its stage), bonus, resample, target. From a record's side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

STAGES = 4  # styles for the stages of a cascade: draft0, draft1, ...
KINDS = ("target", "draft", "bonus", "resample")


@dataclass(frozen=True)
class Span:
    """A piece of text whose tokens have one origin; `style` is the origin, or draftN for the N-th stage in it. "": unknown."""

    style: str
    origin: str
    text: str


def spans(side: dict) -> list[Span]:
    """The side's text in pieces of one origin; in one piece of none where the record does not say where its tokens end."""
    text, ends = side["text"], side.get("ends")
    if not ends:
        return [Span("", "", text)]
    pieces = [(origin, text[start:end]) for origin, start, end in zip(side["origins"], [0, *ends], ends, strict=False)]
    stages = list(dict.fromkeys(origin for origin in side["origins"] if ":" in origin))
    found = [Span(_style(origin, stages), origin, joined) for origin, joined in _joined(pieces)]
    return [span for span in (*found, Span("", "", text[ends[-1] :])) if span.text]


def _joined(pieces: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for origin, group in groupby(pieces, key=lambda piece: piece[0]):
        yield origin, "".join(text for _, text in group)


def _style(origin: str, stages: Sequence[str]) -> str:
    return f"draft{stages.index(origin) % STAGES}" if origin in stages else origin
