"""Indexes that find where the last few ids of a text stood earlier. They grow with the text and are asked once per round.

All of them answer the same question, and are tested against a plain scan of the text: which is the longest suffix of the text, of at most
`max_match` and at least `min_match` ids, that also stands earlier in the text? Of several earlier places one index takes the latest, the
other the earliest. For example, in "A B C A B D A B" the suffix "A B" also stands at the beginning and in the middle; C followed the
earliest and D the latest. The loose end of a fork (see `copying.Material`) is searched and never indexed, and its cost depends on its own
length alone.

`HashedMatch` is a table of n-grams. `EarliestMatch` and `LatestMatch` use a suffix automaton (Blumer et al. 1985), which takes O(1) steps
per id on average. A state of the automaton stands for all substrings that end at the same places of the text, and its suffix link leads to
the longest suffix of them that ends at more places.

Nothing here knows what is done with a match.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from specexp.errors import UserError

Found = tuple[int, int]  # (length of the match, index of the id right after its earlier occurrence); (0, 0) for none
NOTHING: Found = (0, 0)


class Match(Protocol):
    """An index of a text. ids: what has been indexed, in order."""

    ids: list[int]

    def clear(self) -> None: ...

    def extend(self, fresh: Sequence[int]) -> None:
        """Index further settled ids."""

    def find(self, loose: Sequence[int] = ()) -> int | None:
        """Search the text that consists of `ids` and then `loose`. Returns the index of the id that followed the match, which is below the
        text's length, or None."""


class _Match(ABC):
    """What all indexes share: the index of the settled ids is asked, the loose end is scanned, and the better answer is taken."""

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
        """Add one settled id to the index and to `ids`."""

    @abstractmethod
    def _settled(self, loose: Sequence[int]) -> Found:
        """Return the best match whose earlier occurrence ends before the last of `ids`."""

    def _better(self, found: Found, best: Found) -> bool:
        """Whether a match found further on in the text is to be preferred."""
        return found[0] >= best[0]

    def _in(self, loose: Sequence[int]) -> list[Found]:
        """Return the matches whose earlier occurrence ends at the last of `ids` or after it, from left to right."""
        if not loose:
            return []
        text = [*self.ids[-self.max_match :], *loose]
        shift = len(self.ids) + len(loose) - len(text)
        return [(_shared(text, end, self.max_match), shift + end) for end in range(len(text) - len(loose), len(text)) if end]


def _shared(text: list[int], end: int, most: int) -> int:
    """Return how many ids before `end` equal the last ones of the text, counting up to `most`."""
    length = 0
    while length < min(end, most) and text[end - 1 - length] == text[-1 - length]:
        length += 1
    return length


class HashedMatch(_Match):
    """Takes the latest occurrence, by a table of all n-grams of `min_match` to `max_match` ids. It is the fastest index if these sizes are
    few."""

    def clear(self) -> None:
        super().clear()
        self._ends: dict[tuple[int, ...], int] = {}  # n-gram -> index of the id right after its latest occurrence

    def _append(self, token: int) -> None:
        end = len(self.ids)  # the n-grams that end here are added now, because `token` is what follows them
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
    """Finds matches of any length by a suffix automaton."""

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
        """Return the end of the earlier occurrence to copy from, or 0 if none ends before the last of `ids`."""


class EarliestMatch(_AutomatonMatch):
    """Takes the first occurrence, as the original does (CS-Drafting's max-gram)."""

    def __init__(self, min_match: int = 1, max_match: int = 32):
        super().__init__(min_match, max_match)

    def _better(self, found: Found, best: Found) -> bool:
        return found[0] > best[0]

    def _end(self, state: int) -> int:
        end = self._automaton.first_end[state]
        return end if end < len(self.ids) else 0


class LatestMatch(_AutomatonMatch):
    """Takes the last occurrence before the end of the text, because what was written lately predicts better what comes next."""

    def __init__(self, min_match: int = 1, max_match: int = 32):
        super().__init__(min_match, max_match)

    def _append(self, token: int) -> None:
        self._automaton.pass_through(self._state, len(self.ids))  # this visits at most max_match states, one per length
        super()._append(token)

    def _end(self, state: int) -> int:
        return self._automaton.last_end[state]


START = 0  # the state of the empty string


class SuffixAutomaton:
    """next[s]: id -> the state that follows state s. link[s]: the state of the longest suffix that does not belong to s (-1 for the root).
    length[s]: the length of the longest string of s.

    first_end[s]: the index of the id right after the first occurrence. last_end[s]: the same for the latest occurrence that `pass_through`
    has noted, or 0 if it has noted none.
    """

    def __init__(self) -> None:
        self.next: list[dict[int, int]] = [{}]
        self.link, self.length, self.first_end, self.last_end = [-1], [0], [0], [0]
        self._whole = START  # the state of the whole text

    def append(self, token: int) -> None:
        size = self.length[self._whole] + 1
        new, state = self._add({}, size, size, 0), self._whole
        while state != -1 and token not in self.next[state]:
            self.next[state][token] = new
            state = self.link[state]
        self.link[new] = START if state == -1 else self._exactly_after(state, token)
        self._whole = new

    def follow(self, state: int, length: int, token: int, most: int) -> tuple[int, int]:
        """Go from the suffix of `length` ids in `state` to the longest suffix, of at most `most` ids, after `token` was added. Returns its
        state and its length.

        If `token` joins the text, call `append(token)` first, since the suffix is then part of the text itself.
        """
        state = self._holding(state, length)  # the state may have been split since it was returned
        while state != -1 and token not in self.next[state]:
            state = self.link[state]
            length = self.length[state] if state != -1 else 0
        if state == -1:
            return START, 0
        length = min(length + 1, most)
        return self._holding(self.next[state][token], length), length

    def pass_through(self, state: int, end: int) -> None:
        """Store `end` as the latest end of the strings of `state` and of all their suffixes."""
        while state != START:
            self.last_end[state] = end
            state = self.link[state]

    def _holding(self, state: int, length: int) -> int:
        """Return the state that holds the suffix of `length` ids: `state` itself or one that its links lead to."""
        while state != START and self.length[self.link[state]] >= length:
            state = self.link[state]
        return state

    def _exactly_after(self, state: int, token: int) -> int:
        """Return the state whose longest string is the longest string of `state` followed by `token`. If there is none yet, it is split off
        from the state that holds this string."""
        after = self.next[state][token]
        if self.length[after] == self.length[state] + 1:
            return after
        part = self._add(dict(self.next[after]), self.length[state] + 1, self.first_end[after], self.last_end[after])
        self.link[part], self.link[after] = self.link[after], part
        while state != -1 and self.next[state].get(token) == after:
            self.next[state][token] = part
            state = self.link[state]
        return part

    def _add(self, following: dict[int, int], length: int, first_end: int, last_end: int) -> int:
        self.next.append(following)
        self.link.append(-1)
        self.length.append(length)
        self.first_end.append(first_end)
        self.last_end.append(last_end)
        return len(self.next) - 1
