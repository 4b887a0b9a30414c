"""Where the last few ids of a text stood before: indexes of suffixes that grow with the text and are asked once per round.

Semantics, the same for all and tested against a plain scan: of the text's suffixes of at most `max_match` ids, the longest that also
ends earlier in the text, if it has `min_match` ids; and of its earlier ends the latest or the earliest. Nothing here knows what is
done with a match. The loose end of a fork (`Material`) is read and never indexed, at a cost that depends on its own length alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from specexp.drafters.automaton import START, SuffixAutomaton
from specexp.errors import UserError

Found = tuple[int, int]  # (length of the match, index right behind its earlier occurrence); (0, 0) for none
NOTHING: Found = (0, 0)


class Match(Protocol):
    """ids: what has been indexed, in order."""

    ids: list[int]

    def clear(self) -> None: ...

    def extend(self, fresh: Sequence[int]) -> None:
        """Index further settled ids."""

    def find(self, loose: Sequence[int] = ()) -> int | None:
        """The text is `ids` and `loose` behind them: the index of what followed the match, or None. It is below the text's length."""


class _Match(ABC):
    """What all indexes share: the settled part is asked, the loose end scanned, the better of the two answers wins."""

    def __init__(self, min_match: int, max_match: int):
        if not 1 <= min_match <= max_match:
            raise UserError(f"a match needs 1 <= min_match <= max_match, not min_match={min_match} and max_match={max_match}.")
        self.min_match, self.max_match = min_match, max_match
        self.clear()

    def clear(self) -> None:
        self.ids: list[int] = []

    def extend(self, fresh: Sequence[int]) -> None:
        for token in fresh:
            self._append(token)

    def find(self, loose: Sequence[int] = ()) -> int | None:
        best = self._settled(loose)
        for found in self._in(loose):
            if self._better(found, best):
                best = found
        return best[1] if best[0] >= self.min_match else None

    @abstractmethod
    def _append(self, token: int) -> None:
        """Take one settled id into the index and `ids`."""

    @abstractmethod
    def _settled(self, loose: Sequence[int]) -> Found:
        """The best match whose earlier occurrence ends before the last of `ids`."""

    def _better(self, found: Found, best: Found) -> bool:
        """Whether a match found further on in the text is to be preferred."""
        return found[0] >= best[0]

    def _in(self, loose: Sequence[int]) -> list[Found]:
        """Matches whose earlier occurrence ends at the last of `ids` or behind it, from left to right."""
        if not loose:
            return []
        text = [*self.ids[-self.max_match :], *loose]
        shift = len(self.ids) + len(loose) - len(text)
        return [(_shared(text, end, self.max_match), shift + end) for end in range(len(text) - len(loose), len(text)) if end]


def _shared(text: list[int], end: int, most: int) -> int:
    """How many ids before `end` equal the text's last ones, at most `most`."""
    length = 0
    while length < min(end, most) and text[end - 1 - length] == text[-1 - length]:
        length += 1
    return length


class HashedMatch(_Match):
    """The latest occurrence, by a table of all n-grams of `min_match` to `max_match` ids: the fastest where these are few."""

    def clear(self) -> None:
        super().clear()
        self._ends: dict[tuple[int, ...], int] = {}  # n-gram -> index right behind its latest occurrence

    def _append(self, token: int) -> None:
        end = len(self.ids)  # what ends here has a continuation only now
        for size in range(self.min_match, min(self.max_match, end) + 1):
            self._ends[tuple(self.ids[end - size :])] = end
        self.ids.append(token)

    def _settled(self, loose: Sequence[int]) -> Found:
        last = [*self.ids[-self.max_match :], *loose][-self.max_match :]
        for size in range(len(last), self.min_match - 1, -1):
            if (end := self._ends.get(tuple(last[-size:]))) is not None:
                return size, end
        return NOTHING


class _AutomatonMatch(_Match):
    """The longest match of any length, by a suffix automaton."""

    def clear(self) -> None:
        super().clear()
        self._automaton = SuffixAutomaton()
        self._state, self._length = START, 0  # the text's suffix of at most max_match ids

    def _append(self, token: int) -> None:
        self._automaton.append(token)
        self.ids.append(token)
        self._state, self._length = self._automaton.follow(self._state, self._length, token, self.max_match)

    def _settled(self, loose: Sequence[int]) -> Found:
        state, length, automaton = self._state, self._length, self._automaton
        for token in loose:
            state, length = automaton.follow(state, length, token, self.max_match)
        while state != START and not self._end(state):
            state = automaton.link[state]
            length = automaton.length[state]
        return (length, self._end(state)) if state != START else NOTHING

    @abstractmethod
    def _end(self, state: int) -> int:
        """The earlier end to copy from; 0 if there is none before the last of `ids`."""


class EarliestMatch(_AutomatonMatch):
    """The first occurrence, as in the original (CS-Drafting's max-gram)."""

    def __init__(self, min_match: int = 1, max_match: int = 32):
        super().__init__(min_match, max_match)

    def _better(self, found: Found, best: Found) -> bool:
        return found[0] > best[0]

    def _end(self, state: int) -> int:
        end = self._automaton.first_end[state]
        return end if end < len(self.ids) else 0


class LatestMatch(_AutomatonMatch):
    """The last occurrence before the text's end: what was written lately is the better guide."""

    def __init__(self, min_match: int = 1, max_match: int = 32):
        super().__init__(min_match, max_match)

    def _append(self, token: int) -> None:
        self._automaton.pass_through(self._state, len(self.ids))  # at most max_match states: one per length
        super()._append(token)

    def _end(self, state: int) -> int:
        return self._automaton.last_end[state]
