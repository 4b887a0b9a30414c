"""Incremental detokenisation: the text of one generation, handed out as soon as no later token can change or withdraw it.

What is held back is half a character, a run of byte tokens until another token ends it, and whatever may yet become a stop string. All
pieces together are exactly `Stopping.text` of all ids, for every tokenizer and for ids that no model would write. That is more than
`tokenizers.decoders.DecodeStream` promises: it raises an exception when a run of bytes turns out to be no text after a part of it was
handed out, it repeats the prompt if that ends in half a character, and it takes only tokenizers of its own library.

Only the ids since the last piece but one are decoded again for each token, so the cost does not grow with the text.
"""

from __future__ import annotations

from collections.abc import Sequence

from specexp.text.stopping import REPLACEMENT, Stopping, beyond


class Detokenizer:
    """stopping: knows the tokenizer and the stop strings. opening: the ids that the text follows."""

    def __init__(self, stopping: Stopping, opening: Sequence[int]):
        self._stopping, self._opening = stopping, list(opening)
        self._ids: list[int] = []
        self._window = self._settled_end(self._opening)  # ids that are decoded again
        self._read = len(self._window)  # of them, those whose text was taken already or is the opening's
        self._known = stopping.decode(self._window)  # that text
        self._in_bytes = any(stopping.alone(token).byte for token in self._window)
        self._sent = ""
        self._held = ""

    def _settled_end(self, ids: list[int]) -> list[int]:
        """The last ids, from the last one whose text is certain; leading spaces are kept behind it."""
        start = next((i for i in reversed(range(len(ids))) if self._stopping.alone(ids[i]).settles), 0)
        return ids[start:]

    def feed(self, token: int) -> str:
        """The text that is certain now and was not before; "" where there is none."""
        self._ids.append(token)
        self._window.append(token)
        alone = self._stopping.alone(token)
        if not alone.skipped:  # a special token does not end a run of bytes
            self._in_bytes = alone.byte
        if self._in_bytes:
            return ""
        text = self._stopping.decode(self._window)
        new = beyond(self._known, text)
        if not new or text.endswith(REPLACEMENT):
            return ""
        self._window = self._window[self._read :]
        self._read, self._known = len(self._window), self._stopping.decode(self._window)
        self._held += new
        return self._release(len(self._held) - self._stopping.pending(self._held))

    def finish(self) -> str:
        """The rest, once the last token was fed: what was held back, up to a stop string."""
        whole = self._stopping.text(self._opening, self._ids)
        return whole[len(self._sent) :] if whole.startswith(self._sent) else ""

    def _release(self, count: int) -> str:
        piece, self._held = self._held[:count], self._held[count:]
        self._sent += piece
        return piece
