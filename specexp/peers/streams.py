"""The stream of a served text: its events, parsed from bytes as they arrive, and when its text came.

The first part is the "event stream" of the HTML standard, section 9.2. A line ends with CR LF, LF or CR and with nothing else. U+2028,
U+2029 and U+0085 are characters of the data, at which the lines of a text would be split. The bytes may be cut anywhere, also within a
character. It is not left to a library because of time: what arrives is given at once, and so is the last event of a stream that ends
without its empty line. httpx-sse 0.4.3 keeps a line that ends with CR until more arrives, drops such a last event, and reads a byte order
mark as data.

The second part says when the text arrived, and how many of its tokens came first: a stream shows chunks of text and not tokens. The decode
time begins with the first text, so the tokens that came with it are not among those that it paid for. Between a server and this machine
chunks may be held up and sent on together, by a proxy that buffers, say; what arrives together is one moment.

This module knows nothing of HTTP and of JSON, and reads no clock.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

LINE_END = re.compile(rb"\r\n|\r|\n")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Event:
    """lines: its data, one entry for each `data:` line. name: of its `event:` line, or ""."""

    lines: tuple[str, ...]
    name: str = ""

    @property
    def data(self) -> str:
        return "\n".join(self.lines)


class EventStream:
    """The events of one stream, of which pieces are fed in order. Comments, ids and the time to wait before a new try are passed over."""

    def __init__(self) -> None:
        self._rest = b""  # of a line that has not ended
        self._at_start, self._after_return = True, False
        self._name, self._lines = "", []

    def feed(self, arrived: bytes) -> list[Event]:
        """The events that end in this piece."""
        if self._after_return and arrived:  # its LF was only to follow
            arrived, self._after_return = arrived.removeprefix(b"\n"), False
        self._after_return = self._after_return or arrived.endswith(b"\r")
        *lines, self._rest = LINE_END.split(self._rest + arrived)
        return [event for line in lines if (event := self._line(line))]

    def close(self) -> list[Event]:
        """What the stream's last lines hold, where they were not ended."""
        lines, self._rest = (self._rest, b""), b""
        return [event for line in lines if (event := self._line(line))]

    def _line(self, line: bytes) -> Event | None:
        """The event that an empty line ends."""
        if self._at_start:
            self._at_start, line = False, line.removeprefix(BYTE_ORDER_MARK)
        if not line:
            event = Event(tuple(self._lines), self._name) if self._lines else None
            self._name, self._lines = "", []
            return event
        field, _, value = line.decode("utf-8", "replace").partition(":")
        if field == "data":
            self._lines.append(value.removeprefix(" "))
        elif field == "event":
            self._name = value.removeprefix(" ")
        return None


TOGETHER = 0.0005  # seconds: chunks that follow each other faster were held up and sent on together,
TOGETHER_SHARE = 0.02  # if that is also a small share of the time without any text before them
ONE_TOKEN_EACH = 1.5  # tokens per chunk up to which a server sends each token by itself
MANY = 4  # tokens that no first token alone is long enough to be taken for
LIKE_THE_OTHERS = 0.75  # a first chunk of this share of a mean one is no single token
HELD_UP = 0.05  # decode time / time to first token: a stream that was held up, and then came in so short a time, tells no speed


@dataclass(frozen=True)
class Piece:
    """A chunk that held text. seconds: since the request was sent. size: its bytes, of which each token has one at least. counted: tokens
    so far, as the server counts them, or None.
    """

    seconds: float
    size: int
    counted: int | None


def timed(pieces: Sequence[Piece], tokens: int, hidden: int, end: float) -> tuple[tuple[float, ...], int]:
    """(the times at which text arrived and that of the end, tokens that came with the first text: all of them where no speed can be told).

    hidden: of all `tokens` those of a reasoning that the server does not show; they were made before the first text. No speed can be told
    of a text in one piece, of one whose first piece holds more than half of its tokens, and of one that was held up on its way and then
    came in a moment.
    """
    if not pieces:
        return (end, end), max(tokens, 1)
    moments = moments_of(pieces)
    times = (*(moment[0].seconds for moment in moments), max(end, pieces[-1].seconds))
    shown, decode = tokens - hidden, times[-1] - times[0]
    first = first_tokens(moments, shown, hidden)
    held_up = 2 * len(moments) <= len(pieces) and decode < HELD_UP * times[0]
    return times, max(tokens, 1) if len(moments) == 1 or 2 * first > shown or held_up else hidden + first


def moments_of(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """The pieces that arrived together: in one read, or faster one after the other than a model writes."""
    moments: list[list[Piece]] = []
    for piece in pieces:
        if moments:
            silence = moments[-1][0].seconds - (moments[-2][-1].seconds if len(moments) > 1 else 0.0)
            if piece.seconds - moments[-1][-1].seconds < min(TOGETHER, TOGETHER_SHARE * silence):
                moments[-1].append(piece)
                continue
        moments.append([piece])
    return moments


def first_tokens(moments: Sequence[Sequence[Piece]], tokens: int, hidden: int = 0) -> int:
    """Of `tokens` those that came at the first moment. hidden: what the server's counts have besides.

    A server that counts tokens with every chunk says it. One that sends each token by itself shows it by its chunks. Otherwise it is the
    first moment's share of the bytes, or one token where that share is too small for several: a first round of speculation gives one. A
    text with fewer bytes than tokens has tokens that are not shown, and its bytes say nothing.
    Worked example: ten tokens in two chunks of 15 bytes: five. 25 tokens in five chunks, of 4, 20, 24, 18 and 22 bytes: one.
    """
    pieces, first = [piece for moment in moments for piece in moment], moments[0]
    if first[-1].counted and 0 < first[-1].counted - hidden <= tokens:
        return first[-1].counted - hidden
    each = tokens / len(pieces)
    size = sum(piece.size for piece in pieces)
    estimate = tokens * sum(piece.size for piece in first) / size if size >= tokens else 1.0
    if each <= ONE_TOKEN_EACH:
        shown = max(1, round(len(first) * max(each, 1.0)))
        return min(tokens, round(estimate) if estimate - shown >= MANY else shown)
    several = estimate >= min(MANY, LIKE_THE_OTHERS * each)
    return min(tokens, max(len(first), round(estimate) if several else 1))
