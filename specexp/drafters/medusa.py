"""Medusa (Cai et al. 2024, arXiv:2401.10774): heads on the target's own last hidden state guess several tokens ahead, and a tree of their
best guesses is verified in one pass. There is no draft model.

The shape of the tree is fixed (section 2.3.3 of the paper). It is chosen by how often the guesses of each head are right, by rank. A node
is named by the path of ranks that leads to it: (0, 2) is the third guess of head 1 after the first guess of head 0. Heads are assumed to
err independently, so a path is right with the product of its accuracies. With the accuracies 0.6 and 0.2 for the first two guesses of
head 0, and 0.5 for the first of head 1, the best tree of two nodes is

    context ──── (0) ──── (0, 0)      because (0, 0) is right in 0.6 * 0.5 = 0.3 of all rounds, and (1) only in 0.2

The guesses follow from the text without chance, so they are point masses, and the rejection rule keeps the method lossless, greedy and
under sampling. All heads together are one small forward per round. Its time is `draft_seconds`; it is not counted as a model pass. Where
the heads come from is not known here.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.draft import ROOT, Draft, chain_parents, empty_draft
from specexp.decoding.protocols import Drafter, Runner
from specexp.decoding.sampling import Draws


class MedusaDrafter(Drafter):
    """Drafts a tree of the heads' best guesses. target: the runner whose states the heads read. heads: [n, D] -> [K, n, V] logits; head i
    guesses the token i + 2 places after the state's own. tree: its nodes as paths of ranks.

    A tree in which every node has one child is a chain, and works for targets that cannot verify trees. Raises ValueError for a tree that
    the heads cannot fill.
    """

    def __init__(self, target: Runner, heads: Callable[[Tensor], Tensor], tree: Iterable[Sequence[int]]):
        target.keep_states()
        paths = sound_tree(tree, len(heads))
        self.target, self.heads, self._ranks = target, heads, 1 + max((max(path) for path in paths), default=0)
        self._shapes = _shapes(paths)
        self._places = torch.tensor([(len(path) - 1) * self._ranks + path[-1] for path in paths], dtype=torch.int64)
        self.needs_trees = self._shapes[-1] != chain_parents(len(paths))

    def propose(self, context: Context, limit: int, draws: Draws) -> Draft:
        parents = self._shapes[min(limit, len(self._shapes) - 1)]
        if not parents or len(context) < 2:  # no draft is wanted, or no token has a state yet
            return empty_draft(context.device)
        state = self.target.states(context)[-1:]  # [1, D], at the last token but one
        if self._places.device != state.device:
            self._places = self._places.to(state.device)
        best = self.heads(state)[:, 0].topk(self._ranks, -1).indices  # [K, ranks]
        return Draft(best.take(self._places[: len(parents)]).to(context.device), parents)  # the last layer may be on a device of its own


def _shapes(paths: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Return, for each depth from 0 on, the parents of the nodes within that depth. Each answer is one object that is used again and again,
    so that the mask of a tree is built once."""
    numbers = {path: number for number, path in enumerate(paths)}
    parents = tuple(numbers.get(path[:-1], ROOT) for path in paths)
    counts = [sum(len(path) <= depth for path in paths) for depth in range(len(paths[-1]) + 1 if paths else 1)]
    return tuple(chain_parents(count) if parents[:count] == chain_parents(count) else parents[:count] for count in counts)


Path = tuple[int, ...]

FIRST, BY_HEAD, BY_RANK = 0.6, 0.8, 0.25  # these are assumed, not measured: see `assumed_accuracies`


class Measured(Protocol):
    """What is known of some heads. heads: their number K. vocabulary: V. accuracies: [K][ranks], or None if they were not measured."""

    heads: int
    vocabulary: int
    accuracies: Sequence[Sequence[float]] | None


def medusa_tree(accuracies: Sequence[Sequence[float]], nodes: int, ranks: int | None = None) -> tuple[Path, ...]:
    """Return the tree of the `nodes` paths with the largest products, sorted by (length, ranks); there are fewer only if there are no more.
    ranks: how many guesses of each head may be used.

    The tree is built greedily: of all nodes that could be added to it the likeliest is added. No other tree of this size has a larger sum
    of products, and that sum is how many of its tokens are accepted on average. Raises ValueError for nodes < 1, ranks < 1 or no heads.
    """
    if nodes < 1 or (ranks is not None and ranks < 1) or not accuracies:
        raise ValueError(f"nodes={nodes}, ranks={ranks} of {len(accuracies)} heads make no tree; give 1 or more of each.")
    tree: list[Path] = []
    neighbours = list(_children((), 1.0, accuracies, ranks))
    heapq.heapify(neighbours)
    while neighbours and len(tree) < nodes:
        loss, _, path = heapq.heappop(neighbours)
        tree.append(path)
        for child in _children(path, -loss, accuracies, ranks):
            heapq.heappush(neighbours, child)
    return tuple(sorted(tree, key=lambda path: (len(path), path)))


def static_tree(
    heads: Measured, nodes: int | None, ranks: int | None = None, paths: Sequence[Sequence[int]] | None = None
) -> tuple[Path, ...]:
    """Return the tree of `nodes` nodes for these heads, by their accuracies or, if those were not measured, by assumed ones. paths: the
    user's own tree, given instead of `nodes`.

    Raises ValueError if both or neither are given, and for paths that are not a tree that these heads can fill.
    """
    if paths is not None and nodes is None and ranks is None:
        if not paths:
            raise ValueError("paths=[] is an empty tree: give a path or more.")
        return sound_tree(paths, heads.heads, heads.vocabulary)
    if paths is not None or nodes is None:
        given = ", ".join(f"{name}={'null' if value is None else value}" for name, value in (("nodes", nodes), ("ranks", ranks)))
        told = "no paths" if paths is None else "a tree of paths"
        raise ValueError(f"{given} and {told} make no tree: give nodes (and ranks), or paths with nodes=null ranks=null.")
    return medusa_tree(heads.accuracies or assumed_accuracies(heads.heads), nodes, ranks)


def sound_tree(paths: Iterable[Sequence[int]], heads: int, vocabulary: int | None = None) -> tuple[Path, ...]:
    """Return the same paths, sorted by (length, ranks). heads, vocabulary: how many heads there are, and of how many ids each (None: not
    known here). Raises ValueError if a path occurs twice, if its beginning is not among the paths, or if the heads have no guess for it."""
    tree = tuple(sorted((tuple(path) for path in paths), key=lambda path: (len(path), path)))
    for path, before in zip(tree, (None, *tree[:-1]), strict=True):
        if not path or path == before or path[-1] < 0 or (len(path) > 1 and path[:-1] not in tree):
            raise ValueError(f"the path {list(path)} fits into no tree: give paths of ranks (from 0) once, each with its beginning.")
        if vocabulary is not None and path[-1] >= vocabulary:
            raise ValueError(f"the path {list(path)} ends at rank {path[-1]}, but there are {vocabulary} ids; give it a lower one.")
    if tree and len(tree[-1]) > heads:
        raise ValueError(f"the tree is {len(tree[-1])} deep, but there are {heads} Medusa heads; give it at most that depth.")
    return tree


def assumed_accuracies(heads: int, ranks: int = 10) -> list[list[float]]:
    """Return accuracies for heads that were not measured. The first guess of head 0 is taken to be right in 60 % of all cases, that of each
    further head in 0.8 times as many, and each further rank in a quarter as many as the one before, which is about what the paper says of
    Vicuna's heads. `python -m specexp.medusa --measure HEADS` measures them."""
    return [[FIRST * BY_HEAD**head * BY_RANK**rank for rank in range(ranks)] for head in range(heads)]


def _children(path: Path, product: float, accuracies: Sequence[Sequence[float]], ranks: int | None) -> Iterator[tuple[float, int, Path]]:
    """Yield (minus product, length, path) of every guess after `path`. A heap of these gives the largest product first."""
    if len(path) < len(accuracies):
        for rank, accuracy in enumerate(accuracies[len(path)][:ranks]):
            yield -product * accuracy, len(path) + 1, (*path, rank)
