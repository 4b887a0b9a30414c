"""Medusa (Cai et al. 2024, arXiv:2401.10774): heads on the target's own last hidden state guess several tokens ahead, and a static tree of
their best guesses is verified in one pass. No draft model.

Guesses are deterministic given the past, so they are point masses: lossless by rejection, greedy and under sampling. One small forward
of all heads per round, which is the whole of `draft_seconds`; it is no model pass and counts as none.
Does not know where heads come from.

Static trees of Medusa (Cai et al. 2024, arXiv:2401.10774, section 2.3.3): which guesses to verify together, from how often guesses of
each head and rank are right. Pure; knows nothing of models.

A node is the path of ranks that leads to it: (0, 2) is head 1's third guess behind head 0's first. Heads are taken to err independently,
so a path is right with the product of its accuracies.
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
    """target: whose states the heads read. heads: [n, D] -> [K, n, V] logits, head i about the token i + 2 places behind the state's.
    tree: paths of ranks, see below.

    A tree of width 1 is a chain, and does without trees. Raises ValueError for a tree that its heads cannot fill.
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
        if not parents or len(context) < 2:  # nothing wanted, or no token that a state could stand behind
            return empty_draft(context.device)
        state = self.target.states(context)[-1:]  # [1, D], of the last token but one
        if self._places.device != state.device:
            self._places = self._places.to(state.device)
        best = self.heads(state)[:, 0].topk(self._ranks, -1).indices  # [K, ranks]
        return Draft(best.take(self._places[: len(parents)]).to(context.device), parents)  # the last layer may be on a device of its own


def _shapes(paths: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Parents of the nodes within each depth, from 0 on; one object each, so that masks are built once."""
    numbers = {path: number for number, path in enumerate(paths)}
    parents = tuple(numbers.get(path[:-1], ROOT) for path in paths)
    counts = [sum(len(path) <= depth for path in paths) for depth in range(len(paths[-1]) + 1 if paths else 1)]
    return tuple(chain_parents(count) if parents[:count] == chain_parents(count) else parents[:count] for count in counts)


Path = tuple[int, ...]

FIRST, BY_HEAD, BY_RANK = 0.6, 0.8, 0.25  # an assumption, no measurement: see `assumed_accuracies`


class Measured(Protocol):
    """heads, vocabulary: K, V. accuracies: [K][ranks], or None where nobody measured them."""

    heads: int
    vocabulary: int
    accuracies: Sequence[Sequence[float]] | None


def medusa_tree(accuracies: Sequence[Sequence[float]], nodes: int, ranks: int | None = None) -> tuple[Path, ...]:
    """The `nodes` paths of largest product, sorted by (length, ranks); fewer only if there are no more. ranks: at most so many a head.

    Greedy: of all neighbours of the tree the likeliest is added. No other tree of this size has a larger sum of products, which is how
    many of its tokens are kept on average. Raises ValueError for nodes < 1, ranks < 1, no heads.
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
    """The tree of `nodes` for these heads; where their accuracies are not known, for assumed ones. paths: a tree of one's own instead.

    Raises ValueError unless it is one of the two, and for paths that are no tree of theirs.
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
    """The same paths, sorted by (length, ranks). Raises ValueError unless each one's beginning is among them, once, and this many heads of
    this many ids (None: not known here) have guesses for all."""
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
    """A stand-in for heads that nobody measured: the first guess of head 0 is right in 60 %, each further head in 0.8 of the one before,
    each further rank in a quarter of the one before (about what the paper tells of Vicuna's). Measure: `python -m specexp.medusa
    --measure HEADS`."""
    return [[FIRST * BY_HEAD**head * BY_RANK**rank for rank in range(ranks)] for head in range(heads)]


def _children(path: Path, product: float, accuracies: Sequence[Sequence[float]], ranks: int | None) -> Iterator[tuple[float, int, Path]]:
    """(minus product, length, path) of every guess behind `path`: in the order in which a heap gives them."""
    if len(path) < len(accuracies):
        for rank, accuracy in enumerate(accuracies[len(path)][:ranks]):
            yield -product * accuracy, len(path) + 1, (*path, rank)
