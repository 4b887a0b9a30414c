"""Where a text ends: at the first stop id or stop string. Tokens are kept up to the one that completes the stop, and the text is cut
before the stop string.

The cost of a round does not grow with the text. Only a tail that is long enough for the longest stop string is decoded again, and only
when one of the new tokens can complete a stop string at all. The tail is longer only inside a run of byte tokens, as Llama 2's tokenizer
has them: such a run is decoded as a whole, because one byte that does not fit turns all characters of the run into replacement characters.

The last part hands a text out piece by piece, each as soon as no later token can change or withdraw it. What is held back is half a
character, a run of byte tokens until another token ends it, and whatever may yet become a stop string. All pieces together are exactly
`Stopping.text` of all ids, for every tokenizer and for ids that no model would write. That is more than
`tokenizers.decoders.DecodeStream` promises: it raises an exception when a run of bytes turns out to be no text after a part of it was
handed out, it repeats the prompt if that ends in half a character, and it takes only tokenizers of its own library. Only the ids since the
last piece but one are decoded again for each token.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from specexp.decoding.protocols import Cut
from specexp.scoring.texts import cut_at

REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that are no character
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")  # how a tokenizer with byte fallback spells the token of one byte
_SLACK = 4  # tokens more than the longest stop string has bytes; the first of a tail may lose its leading space


class Alone(NamedTuple):
    """A token when nothing stands around it. text: without a leading space, if it has more than that. byte: it is the token of one byte,
    whose text depends on the bytes around it. skipped: it is a special token, which no text shows."""

    text: str
    byte: bool
    skipped: bool

    @property
    def open(self) -> bool:
        """Its text says little: what it adds to a text is known only when other tokens stand beside it."""
        return not self.skipped and (self.text == "" or REPLACEMENT in self.text)

    @property
    def settles(self) -> bool:
        """No token that follows can change the text up to and with this one: it has text, whole characters, and ends a run of bytes."""
        return not (self.skipped or self.open or self.byte)


class Stopping:
    """A `Stop` for the decoder, and the text that belongs to the tokens. tokenizer: anything with transformers' interface."""

    def __init__(self, tokenizer, stop_ids: Collection[int] = (), stop_strings: Collection[str] = ()):
        self.tokenizer = tokenizer
        self.stop_ids = frozenset(stop_ids)
        self.stop_strings = tuple(stop_strings)
        self._reach = max((len(s.encode()) for s in self.stop_strings), default=0) + _SLACK
        self._alone: dict[int, Alone] = {}  # of ids met
        self._before: dict[int, tuple[str, ...]] = {}  # id -> what has to stand before it, should a stop string end inside it
        self._plain: set[int] = set()  # ids met that stop nothing, whatever stands before them
        self._pairs: dict[tuple[int | None, int], bool] = {}  # of neighbours met: whether a stop string may end inside the second
        self._stop_nothing = self._plain.issuperset if self.stop_strings else self.stop_ids.isdisjoint  # asked of some ids at once

    def __call__(self, ids: Sequence[int], since: int) -> Cut | None:
        """ids: generated so far; since: index of the first new one."""
        if self._stop_nothing(ids[since:]):  # most often
            return None
        suspects = [i for i in range(since, len(ids)) if not self._stop_nothing((ids[i],))]
        end = next((i + 1 for i in suspects if ids[i] in self.stop_ids), None)
        stop = self._completed(ids, since, suspects) if self.stop_strings else None
        if stop is not None and (end is None or stop < end):
            return Cut(stop, "stop")
        return None if end is None else Cut(end, "eos")

    def text(self, opening: Sequence[int], ids: Sequence[int]) -> str:
        """The generated text before its first stop string. It is decoded together with the opening, the ids that come before it: this keeps
        leading spaces, and completes a character that the opening began."""
        return cut_at(beyond(self.decode(opening), self.decode([*opening, *ids])), self.stop_strings)

    def pending(self, text: str) -> int:
        """How many last characters may belong to a stop string: all from the first whole one on, else its longest beginning."""
        if whole := [at for s in self.stop_strings if (at := text.find(s)) >= 0]:
            return len(text) - min(whole)
        return max((n for s in self.stop_strings for n in range(1, len(s)) if text.endswith(s[:n])), default=0)

    def ends(self, ids: Sequence[int], text: str) -> list[int]:
        """Characters of `text`, which is that of `ids`, up to and with each token; a character of several tokens comes with its last.

        Decoded in steps of a token behind the one before, so that a long text costs no more per token than a short one.
        """
        ends, anchor, read, total = [], 0, 0, 0
        for end in range(1, len(ids) + 1):
            before, now = self.decode(ids[anchor:read]), self.decode(ids[anchor:end])
            if len(now) > len(before) and not now.endswith(REPLACEMENT):
                anchor, read, total = read, end, total + len(now) - len(before)
            ends.append(min(total, len(text)))
        return ends

    def _completed(self, ids: Sequence[int], since: int, suspects: Sequence[int]) -> int | None:
        """Number of tokens up to the one that completes the earliest stop string, if a new one does. suspects: places of those that may."""
        ends = [i + 1 for i in suspects if self._may_complete(ids[i - 1] if i else None, ids[i])]
        if not ends:
            return None
        start = self._tail(ids, since)
        return next((end for end in ends if self._stops(ids[start:end])), None)

    def _tail(self, ids: Sequence[int], since: int) -> int:
        """Where the part begins that is decoded again: so far back that a stop string which ends at `since` or later lies inside it, and
        with a token that has text of its own and is no byte, so that no run of bytes is cut."""
        start, wanted = since, self._reach
        while start and (wanted or not self.alone(ids[start]).settles):
            start -= 1
            wanted -= wanted > 0 and not self.alone(ids[start]).skipped
        return start

    def _may_complete(self, previous: int | None, token: int) -> bool:
        """False only if no stop string ends inside `token`, as the one before it does not fit."""
        pair = previous, token
        if pair not in self._pairs:
            befores = self._before_of(token)
            text, unknown = ("", False) if previous is None else (self.alone(previous).text, self.alone(previous).open)
            fits = unknown or any(text.endswith(before) or before.endswith(text) for before in befores)
            self._pairs[pair] = bool(befores) and fits
        return self._pairs[pair]

    def _before_of(self, token: int) -> tuple[str, ...]:
        """Beginnings of stop strings that may end inside this token. Alone it may lose a leading space; half a character may be any."""
        if token not in self._before:
            text, unknown = self.alone(token).text, self.alone(token).open
            found = {before for s in self.stop_strings for t in (text, " " + text) for before in beginnings(s, t)}
            self._before[token] = ("",) if unknown else tuple(found)
            if not self._before[token] and token not in self.stop_ids:
                self._plain.add(token)
        return self._before[token]

    def alone(self, token: int) -> Alone:
        if token not in self._alone:
            text = self.decode([token]) or self.decode([token, token])  # of a token that is one space, the first of two is lost
            byte = _BYTE.fullmatch(self.tokenizer.convert_ids_to_tokens(token) or "") is not None
            shown = text or self.tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
            self._alone[token] = Alone(text, byte, skipped=shown != text)
        return self._alone[token]

    def _stops(self, ids: Sequence[int]) -> bool:
        text = self.decode(ids)
        return any(s in text for s in self.stop_strings)

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens and without transformers' tidying of spaces."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def beginnings(stop: str, text: str) -> set[str]:
    """What may stand before `text` such that `stop` ends somewhere in it: beginnings of `stop`, "" where all of it is in the text."""
    before = {stop[:cut] for cut in range(1, len(stop)) if text.startswith(stop[cut:])}
    return before | {""} if stop in text else before


def beyond(before: str, whole: str) -> str:
    """`whole` without its beginning `before`, or, where that ends in half a character, without what the two have in common."""
    if whole.startswith(before):
        return whole[len(before) :]
    common = next((place for place, (one, other) in enumerate(zip(before, whole, strict=False)) if one != other), len(whole))
    return whole[common:]


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
