"""A suffix automaton that grows with its text: O(1) amortised per id (Blumer et al. 1985).

A state stands for all substrings that end at the same places of the text; its suffix link leads to the longest suffix that ends at
more places. Knows nothing of tokens' meaning, nor of drafts.
"""

from __future__ import annotations

START = 0  # the state of the empty string


class SuffixAutomaton:
    """next[s]: id -> state. link[s]: the state of the longest suffix outside s (-1 for the root). length[s]: of s's longest string.

    first_end[s]: index right behind the first occurrence. last_end[s]: behind the latest that `pass_through` has noted, 0 before.
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
        self.link[new] = START if state == -1 else self._exactly_behind(state, token)
        self._whole = new

    def follow(self, state: int, length: int, token: int, most: int) -> tuple[int, int]:
        """From the suffix of `length` ids in `state` to the longest suffix, of at most `most` ids, once `token` has come behind it.

        Call it after `append(token)` where `token` joins the text: the suffix is then one of the text's own.
        """
        state = self._holding(state, length)  # it may have been split since
        while state != -1 and token not in self.next[state]:
            state = self.link[state]
            length = self.length[state] if state != -1 else 0
        if state == -1:
            return START, 0
        length = min(length + 1, most)
        return self._holding(self.next[state][token], length), length

    def pass_through(self, state: int, end: int) -> None:
        """Note `end` as the latest end of the strings in `state` and of all their suffixes."""
        while state != START:
            self.last_end[state] = end
            state = self.link[state]

    def _holding(self, state: int, length: int) -> int:
        """Of `state` and what its links lead to: the one that holds the suffix of `length` ids."""
        while state != START and self.length[self.link[state]] >= length:
            state = self.link[state]
        return state

    def _exactly_behind(self, state: int, token: int) -> int:
        """The state whose longest string is `state`'s longest with `token` behind it: split off where it is not there yet."""
        behind = self.next[state][token]
        if self.length[behind] == self.length[state] + 1:
            return behind
        part = self._add(dict(self.next[behind]), self.length[state] + 1, self.first_end[behind], self.last_end[behind])
        self.link[part], self.link[behind] = self.link[behind], part
        while state != -1 and self.next[state].get(token) == behind:
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
