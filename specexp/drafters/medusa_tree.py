"""Static trees of Medusa (Cai et al. 2024, arXiv:2401.10774, section 2.3.3): which guesses to verify together, from how often guesses of
each head and rank are right. Pure; knows nothing of models.

A node is the path of ranks that leads to it: (0, 2) is head 1's third guess behind head 0's first. Heads are taken to err independently,
so a path is right with the product of its accuracies.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

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
    each further rank in a quarter of the one before (about what the paper tells of Vicuna's). Measure: `python -m specexp.models.medusa
    --measure HEADS`."""
    return [[FIRST * BY_HEAD**head * BY_RANK**rank for rank in range(ranks)] for head in range(heads)]


def _children(path: Path, product: float, accuracies: Sequence[Sequence[float]], ranks: int | None) -> Iterator[tuple[float, int, Path]]:
    """(minus product, length, path) of every guess behind `path`: in the order in which a heap gives them."""
    if len(path) < len(accuracies):
        for rank, accuracy in enumerate(accuracies[len(path)][:ranks]):
            yield -product * accuracy, len(path) + 1, (*path, rank)
