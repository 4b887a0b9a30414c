"""Sequoia's tree (Chen et al. 2024, arXiv:2402.12374, section 4.1): of all shapes with a budget of nodes the one whose expected
number of accepted tokens is largest, by dynamic programming over how likely the child of each rank is to be accepted.

The rates are given, or measured in the rounds so far, of all prompts; a shape depends on earlier rounds alone, which leaves the law of the
text exact, but under sampling a seed repeats a text only with given rates. Rates are taken to be the same everywhere
in the tree. What a pass over more nodes costs is not considered: the budget is the user's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specexp.decoding.draft import ROOT, Draft
from specexp.decoding.protocols import Verdict
from specexp.drafters.fixed_trees import Shape, Shapes

FIRST_RATE, FADING, PRIOR_WEIGHT = 0.6, 0.5, 4.0  # before anything is known; a rank beside the one above it; in tries
FIRST_REVIEW = 16  # rounds until the first tree from measured rates; each later one after twice as many


class SequoiaShape(Shapes):
    """max_nodes: drafted tokens per round. max_depth, max_branching: bounds of the search.

    acceptance: P(the child of rank r is the one accepted | its parent was), r = 0, 1, ..; None: measured, over all prompts so far.
    """

    def __init__(self, max_nodes: int, max_depth: int = 8, max_branching: int = 8, acceptance: Sequence[float] | None = None):
        if min(max_nodes, max_depth, max_branching) < 1:
            told = f"max_nodes={max_nodes}, max_depth={max_depth}, max_branching={max_branching}"
            raise ValueError(f"{told} make no tree; give 1 or more of each.")
        if acceptance is not None and (not acceptance or min(acceptance) < 0 or sum(acceptance) > 1):
            raise ValueError(f"acceptance={list(acceptance)} are no rates of siblings; give one or more that add up to 1 at most.")
        self.max_nodes, self.max_depth, self.max_branching = max_nodes, max_depth, max_branching
        self._given = acceptance
        self._rates = RankRates(max_branching)
        self._rounds, self._review = 0, FIRST_REVIEW
        self._shape = self._best()

    def shape(self) -> Shape:
        return self._shape

    def observe(self, draft: Draft, verdict: Verdict) -> None:
        if self._given is not None or not len(draft):
            return
        self._rates.observe(draft, verdict)
        self._rounds += 1
        if self._rounds == self._review:
            self._review *= 2
            self._shape = self._best()

    def _best(self) -> Shape:
        acceptance = self._rates.acceptance() if self._given is None else list(self._given)[: self.max_branching]
        return best_shape(acceptance, self.max_nodes, self.max_depth)


class RankRates:
    """How often the child of each rank was accepted where its earlier siblings were not."""

    def __init__(self, ranks: int):
        self.tried, self.accepted = [0] * ranks, [0] * ranks

    def observe(self, draft: Draft, verdict: Verdict) -> None:
        """Walk the accepted path: at each of its nodes siblings were tried in their order."""
        for node, accepted in zip((ROOT, *verdict.path), (*verdict.path, None), strict=True):
            for rank, child in enumerate(draft.children(node)):
                self.tried[rank] += 1
                if child == accepted:
                    self.accepted[rank] += 1
                    break

    def acceptance(self) -> list[float]:
        """By rank, P(this child is the one accepted); falling, so that noise never puts a later sibling first."""
        prior, left, found = FIRST_RATE, 1.0, []
        for tried, accepted in zip(self.tried, self.accepted, strict=True):
            rate = (accepted + PRIOR_WEIGHT * prior) / (tried + PRIOR_WEIGHT)
            found.append(min(left * rate, found[-1] if found else 1.0))
            prior, left = FADING * rate, left * (1 - rate)
        return found


def best_shape(acceptance: Sequence[float], max_nodes: int, max_depth: int) -> Shape:
    """The tree of at most max_nodes below the root with most expected accepted tokens; acceptance falls with the rank."""
    splits = _splits(np.array(acceptance, dtype=np.float64), max_nodes, max_depth)
    children: list[tuple[int, ...]] = [()]
    open_nodes = [(0, max_nodes, max_depth)]
    for node, budget, depth in open_nodes:
        sizes = sorted(_sizes(splits, budget, depth), reverse=True)
        children[node] = tuple(range(len(children), len(children) + len(sizes)))
        open_nodes += [(child, size - 1, depth - 1) for child, size in zip(children[node], sizes, strict=True)]
        children += [()] * len(sizes)
    return Shape(tuple(children))


def _splits(acceptance: np.ndarray, max_nodes: int, max_depth: int) -> np.ndarray:
    """[depth + 1, ranks, nodes + 1]: of so many nodes left for the children of this rank and later, how many the first one's subtree gets.

    gain[d][m]: the expected accepted tokens below a node that may have m nodes on d levels below it; a subtree of y nodes is worth
    p_r (1 + gain[d - 1][y - 1]).
    """
    ranks = len(acceptance)
    splits = np.zeros((max_depth + 1, ranks, max_nodes + 1), dtype=np.int64)
    gain = np.zeros(max_nodes + 1)
    for depth in range(1, max_depth + 1):
        worth = np.concatenate([[0.0], 1 + gain[:-1]])  # of a subtree of y nodes whose root is accepted
        rest = np.zeros(max_nodes + 1)
        for rank in reversed(range(ranks)):
            here = np.zeros(max_nodes + 1)
            for nodes in range(1, max_nodes + 1):
                values = acceptance[rank] * worth[: nodes + 1] + rest[nodes::-1]
                splits[depth, rank, nodes] = best = int(values.argmax())
                here[nodes] = values[best]
            rest = here
        gain = rest
    return splits


def _sizes(splits: np.ndarray, budget: int, depth: int) -> list[int]:
    """Sizes of the subtrees of a node's children, by rank."""
    sizes = []
    for rank in range(splits.shape[1] if depth else 0):
        size = int(splits[depth, rank, budget])
        sizes += [size] if size else []
        budget -= size
    return sizes
