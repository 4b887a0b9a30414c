"""Staged speculative decoding (Spector and Re 2023, arXiv:2308.04623): the draft model's own tree is drafted speculatively too.

A Katz trigram guesses which tokens the draft model will put into its tree. Each draft pass scores these guesses together with the nodes
that it was needed for, and where a guess was right the tree grows on without another pass. For example, a path of 3 tokens takes 3 draft
passes; if the first pass also scores a right guess of the first two tokens, it takes one.

The tree is the same as the draft model would have grown alone, except that rounding may decide differently between equally likely paths.
Only the number of draft passes differs. So bad guesses cost time and never change the distribution of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

from specexp.decoding.context import Context
from specexp.decoding.draft import ROOT
from specexp.decoding.protocols import Runner
from specexp.drafters import ngrams
from specexp.drafters.grown_trees import Feeler, GrownTreeDrafter, Growth, Sprout
from specexp.drafters.katz import KatzTable


class StagedTreeDrafter(GrownTreeDrafter):
    """Drafts the draft model's own tree with fewer passes. table: the trigram. guesses: how many nodes each draft pass scores in advance.
    guess_branching: the most guesses after one node."""

    def __init__(
        self,
        runner: Runner,
        growth: Growth,
        max_nodes: int,
        table: KatzTable,
        vocabulary: ngrams.Vocabulary,
        guesses: int = 4,
        guess_branching: int = 2,
    ):
        super().__init__(runner, growth, max_nodes)
        ngrams.check_vocabulary(table.facts, vocabulary)
        if guesses < 0 or guess_branching < 1:
            raise ValueError(f"guesses={guesses} with guess_branching={guess_branching} do not fit; give 0 or more, and 1 or more.")
        self.trigram = Trigram(table, vocabulary.rows, guess_branching)
        self.guesses = guesses

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        super().start(prompt, max_new_tokens)
        self.trigram.forget()

    def _feeler(self, context: Context, temperature: float) -> Feeler:
        return GuessingFeeler(self.runner, context, temperature, self.growth, self.trigram, self.guesses)


class Trigram:
    """The likeliest ids after two ids, which are remembered until the next prompt."""

    def __init__(self, table: KatzTable, rows: int, width: int):
        self.table, self.rows, self.width = table, rows, width
        self._known: dict[tuple[int, ...], list[tuple[float, int]]] = {}

    def forget(self) -> None:
        self._known.clear()

    def __call__(self, before: tuple[int, ...]) -> list[tuple[float, int]]:
        """Return (log P, id) of the likeliest ids, best first."""
        if before not in self._known:
            p = self.table.distribution(before)[: self.rows]
            values, ids = p.log().topk(min(self.width, len(p)))
            self._known[before] = list(zip(values.tolist(), ids.tolist(), strict=True))
        return self._known[before]


class GuessingFeeler(Feeler):
    """Scores guesses together with the nodes that a pass is needed for. A node that was guessed earlier needs no pass of its own."""

    def __init__(self, runner: Runner, context: Context, temperature: float, growth: Growth, trigram: Trigram, count: int):
        super().__init__(runner, context, temperature, growth.width)
        self.deepest, self.trigram, self.count = growth.depth - 1, trigram, count
        self.guessed: dict[tuple[int, int], int] = {}  # (node of `fed` or ROOT, id that follows it) -> node of `fed`

    def ready(self, sprout: Sprout) -> list[int]:
        return [node for node in sprout.frontier if self._came_true(sprout, node)] or super().ready(sprout)

    def _came_true(self, sprout: Sprout, node: int) -> bool:
        place = None if node == ROOT else self.guessed.get((self.place[sprout.parents[node]], sprout.ids[node]))
        if place is not None:
            self.place[node] = place
        return place is not None

    def guesses(self, sprout: Sprout) -> list[tuple[int, int]]:
        """Return guesses that form a small tree below the frontier, the likeliest paths first. A path's probability is the draft model's up
        to the frontier, and from there the trigram's."""
        first = len(self.fed) + len(sprout.frontier) - (ROOT in sprout.frontier)
        deepest, found, heap = min(self.deepest, sprout.limit - 1), [], []
        for node in sprout.frontier:
            self._push(heap, sprout.path_log_p(node), self.place[node], self._before(sprout, node), sprout.depth(node) + 1)
        while heap and len(found) < self.count:
            cost, place, token, before, depth = heappop(heap)
            if depth <= deepest:
                self.guessed[place, token] = first + len(found)
                self._push(heap, -cost, first + len(found), (before[-1], token), depth + 1)
                found.append((token, place))
        return found

    def _push(self, heap: list, log_p: float, place: int, before: tuple[int, ...], depth: int) -> None:
        for more, token in self.trigram(before):
            heappush(heap, (-log_p - more, place, token, before, depth))

    def _before(self, sprout: Sprout, node: int) -> tuple[int, ...]:
        """Return the last two ids of the text that ends with this node."""
        last: list[int] = []
        while node != ROOT and len(last) < 2:
            last.insert(0, sprout.ids[node])
            node = sprout.parents[node]
        return (*self.context.ids[-2:], *last)[-2:]
