"""Server-sent events, parsed from bytes as they arrive: the "event stream" of the HTML standard, section 9.2.

A line ends with CR LF, LF or CR and with nothing else. U+2028, U+2029 and U+0085 are characters of the data, at which the lines of a text
would be split. The bytes may be cut anywhere, also within a character. This module knows nothing of HTTP, of JSON and of clocks.

It is not left to a library because of time: what arrives is given at once, and so is the last event of a stream that ends without its empty
line. httpx-sse 0.4.3 keeps a line that ends with CR until more arrives, drops such a last event, and reads a byte order mark as data.
"""

from __future__ import annotations

import re
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
