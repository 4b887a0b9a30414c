"""Where a text ends: stop ids and stop strings, the first by position wins. Tokens are kept up to the one that completes the stop;
the text is cut before a stop string.

The cost of a round does not grow with the text: only a tail as long as the longest stop string is decoded again, and only
when one of the new tokens can complete a stop string at all.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from specexp.decoding.protocols import Cut
from specexp.scoring.code import cut_at

_SLACK = 4  # tokens that may decode to nothing (special ones, halves of a character)


class Stopping:
    """A `Stop` for the decoder, and the text that belongs to the tokens. tokenizer: transformers' interface."""

    def __init__(self, tokenizer, stop_ids: Collection[int] = (), stop_strings: Collection[str] = ()):
        self.tokenizer = tokenizer
        self.stop_ids = frozenset(stop_ids)
        self.stop_strings = tuple(stop_strings)
        self._reach = max((len(s.encode()) for s in self.stop_strings), default=0) + _SLACK
        self._texts: dict[int, str] = {}  # id -> its text, alone
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
        """The generated text before its first stop string. Decoded behind the ids that it follows, which keeps leading spaces."""
        whole, before = self.decode([*opening, *ids]), self.decode(opening)
        text = whole[len(before) :] if whole.startswith(before) else self.decode(ids)
        return cut_at(text, self.stop_strings)

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
            if len(now) > len(before) and not now.endswith("\ufffd"):
                anchor, read, total = read, end, total + len(now) - len(before)
            ends.append(min(total, len(text)))
        return ends

    def _completed(self, ids: Sequence[int], since: int, suspects: Sequence[int]) -> int | None:
        """Number of tokens up to the one that completes the earliest stop string, if a new one does. suspects: places of those that may."""
        if not any([self._may_complete(ids[i - 1] if i else None, ids[i]) for i in suspects]):
            return None
        start = max(0, since - self._reach)
        if not self._stops(ids[start:]):
            return None
        return next(end for end in range(since + 1, len(ids) + 1) if end == len(ids) or self._stops(ids[start:end]))

    def _may_complete(self, previous: int | None, token: int) -> bool:
        """False only if no stop string ends inside `token`, as the one before it does not fit."""
        pair = previous, token
        if pair not in self._pairs:
            text, befores = "" if previous is None else self._text(previous), self._before_of(token)
            fits = "\ufffd" in text or any(text.endswith(before) or before.endswith(text) for before in befores)
            self._pairs[pair] = bool(befores) and fits
        return self._pairs[pair]

    def _before_of(self, token: int) -> tuple[str, ...]:
        """Beginnings of stop strings that may end inside this token. Alone it may lose a leading space; half a character may be any."""
        if token not in self._before:
            text = self._text(token)
            found = {before for s in self.stop_strings for t in (text, " " + text) for before in beginnings(s, t)}
            self._before[token] = ("",) if "\ufffd" in text else tuple(found)
            if not self._before[token] and token not in self.stop_ids:
                self._plain.add(token)
        return self._before[token]

    def _text(self, token: int) -> str:
        if token not in self._texts:
            self._texts[token] = self.decode([token])
        return self._texts[token]

    def _stops(self, ids: Sequence[int]) -> bool:
        text = self.decode(ids)
        return any(s in text for s in self.stop_strings)

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens, nothing tidied."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def beginnings(stop: str, text: str) -> set[str]:
    """What may stand before `text` such that `stop` ends somewhere in it: beginnings of `stop`, "" where all of it is in the text."""
    before = {stop[:cut] for cut in range(1, len(stop)) if text.startswith(stop[cut:])}
    return before | {""} if stop in text else before
