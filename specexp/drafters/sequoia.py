"""Sequoia's tree (Chen et al. 2024, arXiv:2402.12374, section 4.1): of all shapes with a given number of nodes, the one with the most
expected accepted tokens. It is found by dynamic programming over how likely the child of each rank is to be accepted.

The rank of a child is its place among its siblings, from 0. For example, let the child of rank 0 be accepted with probability 0.5 and that
of rank 1 with 0.3. A chain of three nodes then has 0.5 + 0.25 + 0.125 = 0.875 expected accepted tokens. The best tree of three nodes has
two children of the root, and one child of the first of them: 0.5 + 0.3 + 0.5 * 0.5 = 1.05.

These rates are given by the user, or measured in all rounds so far, of all prompts. A shape depends on earlier rounds alone, so the text
keeps its exact distribution; but under sampling a seed gives the same text twice only with given rates. The rates are assumed to be the
same everywhere in the tree. What a pass over more nodes costs is not considered: the user chooses the number of nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specexp.decoding.draft import ROOT, Draft
from specexp.decoding.protocols import Verdict
from specexp.drafters.fixed_trees import Shape, Shapes

# The rate of rank 0 before anything was measured, the factor from one rank's rate to the next one's, and as how many tries they count.
FIRST_RATE, FADING, PRIOR_WEIGHT = 0.6, 0.5, 4.0
FIRST_REVIEW = 16  # the tree is chosen anew after 16 rounds, 32 rounds, 64 rounds and so on


class SequoiaShape(Shapes):
    """Gives Sequoia's tree for the rates so far. max_nodes: the number of tokens drafted per round. max_depth, max_branching: the bounds of
    the search.

    acceptance: P(the child of rank r is the one that is accepted | its parent was accepted), for r = 0, 1, .. None: the rates are measured,
    over all prompts so far.
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
    """Counts how often the child of each rank was tried, which happens if its earlier siblings were refused, and how often it was
    accepted."""

    def __init__(self, ranks: int):
        self.tried, self.accepted = [0] * ranks, [0] * ranks

    def observe(self, draft: Draft, verdict: Verdict) -> None:
        """Count one round: at each node of the accepted path its children were tried in their order, until one was accepted."""
        for node, accepted in zip((ROOT, *verdict.path), (*verdict.path, None), strict=True):
            for rank, child in enumerate(draft.children(node)):
                self.tried[rank] += 1
                if child == accepted:
                    self.accepted[rank] += 1
                    break

    def acceptance(self) -> list[float]:
        """Return P(this child is the one that is accepted) by rank. It never rises with the rank, so that no later sibling comes first by
        chance."""
        prior, left, found = FIRST_RATE, 1.0, []
        for tried, accepted in zip(self.tried, self.accepted, strict=True):
            rate = (accepted + PRIOR_WEIGHT * prior) / (tried + PRIOR_WEIGHT)
            found.append(min(left * rate, found[-1] if found else 1.0))
            prior, left = FADING * rate, left * (1 - rate)
        return found


def best_shape(acceptance: Sequence[float], max_nodes: int, max_depth: int) -> Shape:
    """Return the tree of at most max_nodes nodes below the root that has the most expected accepted tokens. `acceptance` has to fall with
    the rank."""
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
    """Return splits, [max_depth + 1, ranks, max_nodes + 1]. splits[d, r, m]: if m nodes are left for the children of rank r and later, on d
    levels, how many of them the subtree of the child of rank r gets.

    Let gain[d][m] be the expected number of accepted tokens below a node that may have m nodes on d levels. A subtree of y nodes, whose
    root has the rank r, then adds p_r (1 + gain[d - 1][y - 1]).
    """
    ranks = len(acceptance)
    splits = np.zeros((max_depth + 1, ranks, max_nodes + 1), dtype=np.int64)
    gain = np.zeros(max_nodes + 1)
    for depth in range(1, max_depth + 1):
        worth = np.concatenate([[0.0], 1 + gain[:-1]])  # the value of a subtree of y nodes, if its root is accepted
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
    """Return the sizes of the subtrees of a node's children, by rank."""
    sizes = []
    for rank in range(splits.shape[1] if depth else 0):
        size = int(splits[depth, rank, budget])
        sizes += [size] if size else []
        budget -= size
    return sizes
