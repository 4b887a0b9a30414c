"""What followed the last ids how often: n-gram counts that learn while the text is written (NASD, romsto's speculative decoding).

A storage counts and answers; it knows nothing of drafts. Counting one id and answering once cost O(order), however much was counted.
The most frequent id of each context is kept at hand; it gives way only to one counted more often, so ties keep the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from specexp.errors import UserError


class NgramStorage(Protocol):
    order: int  # n: a context has at most n - 1 ids

    def clear(self) -> None: ...

    def count(self, before: Sequence[int], token: int) -> None:
        """`token` has followed `before` (whose last order - 1 ids matter) once more."""

    def likeliest(self, before: Sequence[int]) -> int | None:
        """What followed `before` most often, None where that is not known."""


class _Followers:
    """Counts behind one context, and the id counted most."""

    __slots__ = ("best", "counts", "most")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.best, self.most = -1, 0

    def count(self, token: int) -> None:
        seen = self.counts[token] = self.counts.get(token, 0) + 1
        if seen > self.most:
            self.best, self.most = token, seen


class BasicStorage:
    """Contexts of order - 1 ids down to one; the longest that is known answers (back-off)."""

    def __init__(self, order: int = 3):
        if order < 2:
            raise UserError(f"order={order} leaves no context to count behind; an n-gram storage needs 2 or more.")
        self.order = order
        self.sizes = tuple(range(order - 1, 0, -1))
        self.clear()

    def clear(self) -> None:
        self._known: dict[tuple[int, ...], _Followers] = {}

    def count(self, before: Sequence[int], token: int) -> None:
        for size in self.sizes:
            if size <= len(before):
                self._known.setdefault(tuple(before[-size:]), _Followers()).count(token)

    def likeliest(self, before: Sequence[int]) -> int | None:
        for size in self.sizes:
            if size <= len(before) and (followers := self._known.get(tuple(before[-size:]))) is not None:
                return followers.best
        return None


class OneLevelStorage(BasicStorage):
    """Contexts of exactly order - 1 ids: fewer answers, surer ones."""

    def __init__(self, order: int = 3):
        super().__init__(order)
        self.sizes = (order - 1,)
