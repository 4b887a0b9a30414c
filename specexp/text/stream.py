"""Incremental detokenisation: the text of one generation, handed out as soon as no later token can change or withdraw it.

Held back are halves of characters and whatever might yet become a stop string. All pieces together are exactly `Stopping.text` of all ids.
A window of the latest ids is decoded again per token, so the cost does not grow with the text.
"""

from __future__ import annotations

from collections.abc import Sequence

from specexp.text.stopping import Stopping

WINDOW = 6  # ids before the text that its first token is decoded behind, for leading spaces


class Detokenizer:
    """stopping: knows the tokenizer and the stop strings. opening: the ids that the text follows."""

    def __init__(self, stopping: Stopping, opening: Sequence[int]):
        self._stopping, self._opening = stopping, list(opening)
        self._ids: list[int] = []
        self._window = self._opening[-WINDOW:]
        self._known = stopping.decode(self._window)  # the window's text that was taken already
        self._sent = ""
        self._held = ""

    def feed(self, token: int) -> str:
        """What is certain now that was not before; "" where nothing is."""
        self._ids.append(token)
        self._window.append(token)
        text = self._stopping.decode(self._window)
        if text.endswith("\ufffd") or len(text) <= len(self._known):
            return ""
        self._held += text[len(self._known) :]
        self._window = self._window[-WINDOW:]
        self._known = self._stopping.decode(self._window)
        return self._release(len(self._held) - self._stopping.pending(self._held))

    def finish(self) -> str:
        """The rest, once the last token was fed: what was held back, up to a stop string."""
        whole = self._stopping.text(self._opening, self._ids)
        return whole[len(self._sent) :] if whole.startswith(self._sent) else ""

    def _release(self, count: int) -> str:
        piece, self._held = self._held[:count], self._held[count:]
        self._sent += piece
        return piece
