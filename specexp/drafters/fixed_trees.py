"""Token trees whose shape is decided before a token of them is drawn (SpecInfer, arXiv:2305.09781; Sequoia, arXiv:2402.12374).

Because the shape does not depend on the tokens, siblings may be drawn at random without biasing the text. They are drawn without
replacement, and each keeps the distribution that it was drawn from given its earlier siblings, which is what the recursive rejection rule
expects (`RejectionVerifier.tree`). In greedy decoding a node's children are its best ids.

A draft model fills the tree with one pass per level. Nodes with children are numbered first, level by level, and then all leaves, so that
the draft model is fed the first nodes of the tree and never a leaf. For branching [2, 2], where the second node of the first level is cut
to one child:

    root ─┬─ 0 ─┬─ 2        The first pass scores the root and gives it the children 0 and 1.
          │     └─ 3        The second pass scores 0 and 1 and gives them the leaves 2, 3 and 4.
          └─ 1 ─── 4

`Shape` and `FixedShape` know nothing of tokens or models; `DrawnTreeDrafter` knows nothing of how a shape is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import torch
from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.draft import ROOT, Draft, empty_draft
from specexp.decoding.protocols import Drafter, Runner, Verdict, within
from specexp.decoding.sampling import Draws

WIDEST = 64  # the most children of one node, far more than have been found to pay


@dataclass(frozen=True)
class Level:
    """The children of the nodes that one draft pass scores. rows: the number of these nodes. width: the most children of any of them.

    The pass gives every node `width` children; child number `rank` of row `row` has the place row * width + rank. inner: the places of the
    children that have children themselves, in the order of their nodes. leaves: those of the children that have none. inner_parents,
    leaf_parents: the node that each of these hangs from.
    """

    rows: int
    width: int
    inner: tuple[int, ...]
    inner_parents: tuple[int, ...]
    leaves: tuple[int, ...]
    leaf_parents: tuple[int, ...]


@dataclass(frozen=True)
class Shape:
    """A tree without tokens. children[n][r] is the r-th child of node n. Node 0 is the root, and every node has a higher number than its
    parent. Of siblings, those that have children come first, because the best guesses are to go deepest. For example, ((1, 2), (3,), (),
    ()) is a root with two children, the first of which has one child.
    """

    children: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        for siblings in self.children:
            inner = [bool(self.children[child]) for child in siblings]
            if inner != sorted(inner, reverse=True):
                raise ValueError(f"of the siblings {list(siblings)} one without children comes before one with children.")

    @cached_property
    def depth(self) -> int:
        """The number of levels below the root."""
        return len(self.levels)

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        found, level, number = [], [0] if self.children[0] else [], {0: ROOT}
        while level:
            width = max(len(self.children[node]) for node in level)
            placed = [(row * width + rank, node, child) for row, node in enumerate(level) for rank, child in enumerate(self.children[node])]
            inner = [(place, node, child) for place, node, child in placed if self.children[child]]
            leaves = [(place, node, child) for place, node, child in placed if not self.children[child]]
            for _, _, child in inner:
                number[child] = len(number) - 1
            parents = [tuple(number[node] for _, node, _ in part) for part in (inner, leaves)]
            found.append(Level(len(level), width, tuple(p for p, _, _ in inner), parents[0], tuple(p for p, _, _ in leaves), parents[1]))
            level = [child for _, _, child in inner]
        return tuple(found)

    def cut(self, depth: int) -> Shape:
        """Return the same tree without the nodes that are more than `depth` levels below the root."""
        if depth >= self.depth:
            return self
        kept, level = [0], [0]
        for _ in range(depth):
            level = [child for node in level for child in self.children[node]]
            kept += level
        number, below = {node: i for i, node in enumerate(kept)}, set(level)
        return Shape(tuple(() if node in below else tuple(number[child] for child in self.children[node]) for node in kept))


class Shapes(Protocol):
    """Gives the shape of each round's tree."""

    def shape(self) -> Shape:
        """Return the shape of the next tree. It may depend on earlier rounds, but not on the tokens of this one."""

    def observe(self, draft: Draft, verdict: Verdict) -> None:
        """Learn what was accepted of a tree of that shape. The tree may have been cut to fewer levels."""


class FixedShape(Shapes):
    """The same tree every round: `branching` children per node down to `depth`, filled level by level with at most max_nodes nodes.

    branching: one number for all levels, or one number per level, which also gives the depth. For example, [3, 2, 1] makes 3 + 6 + 6 = 15
    nodes.
    """

    def __init__(self, branching: int | Sequence[int], depth: int | None = None, max_nodes: int | None = None):
        widths = [branching] * (depth or 0) if isinstance(branching, int) else list(branching)
        whole = all(type(width) is int and 1 <= width <= WIDEST for width in widths)
        if not widths or not whole or (depth is not None and depth != len(widths)):
            raise ValueError(
                f"branching={branching} with depth={depth} is no tree; give children per level ([2,2,1], each 1 to {WIDEST}), "
                "or one number and a depth."
            )
        if max_nodes is not None and max_nodes < 1:
            raise ValueError(f"max_nodes={max_nodes} leaves no node; give 1 or more, or null for no bound.")
        self._shape = breadth_first(widths, max_nodes)

    def shape(self) -> Shape:
        return self._shape

    def observe(self, draft: Draft, verdict: Verdict) -> None:
        pass


def breadth_first(widths: Sequence[int], max_nodes: int | None = None) -> Shape:
    """Give every node of level d widths[d] children, level by level, until there are max_nodes nodes."""
    children: list[list[int]] = [[]]
    level = [0]
    for width in widths:
        below: list[int] = []
        for node in level:
            for _ in range(width):
                if max_nodes is not None and len(children) > max_nodes:
                    break
                children[node].append(len(children))
                below.append(len(children))
                children.append([])
        level = below
    return Shape(tuple(tuple(nodes) for nodes in children))


@dataclass(frozen=True, eq=False)
class Pass:
    """One draft pass: it scores `rows` nodes and gives each `width` children. inner and leaves: [k], the places of the children that are
    kept, as in `Level` but on the device."""

    rows: int
    width: int
    inner: Tensor
    inner_parents: tuple[int, ...]
    leaves: Tensor


class DrawnTreeDrafter(Drafter):
    """Fills each round's tree with tokens of a draft model. shapes: gives the shape of each round's tree."""

    needs_trees = True

    def __init__(self, runner: Runner, shapes: Shapes):
        self.runner, self.shapes = growing(runner), shapes

    @property
    def models(self) -> dict[str, Runner]:
        return {"draft": self.runner}

    def start(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        self.runner.start(prompt, max_new_tokens)

    def propose(self, context: Context, limit: int, draws: Draws) -> Draft:
        limit = within(limit, self.runner.room(context))
        draft = empty_draft(context.device)
        if limit == 0:
            return draft
        passes, leaf_parents = planned(self.shapes.shape(), limit, context.device)
        leaves = []
        for step in passes:
            tokens, q = self._children(self.runner.logits(context, draft, rows=step.rows), step.width, draws)
            leaves.append((tokens[step.leaves], None if q is None else q[step.leaves]))
            if step.inner_parents:
                draft = draft.grow(tokens[step.inner], step.inner_parents, None if q is None else q[step.inner])
        tokens, laws = zip(*leaves, strict=True)
        return draft.grow(torch.cat(tokens), leaf_parents, None if draws.is_greedy else torch.cat(laws))

    def observe(self, draft: Draft, verdict: Verdict, logits: Tensor) -> None:
        self.shapes.observe(draft, verdict)

    def _children(self, logits: Tensor, width: int, draws: Draws) -> tuple[Tensor, Tensor | None]:
        """Return the children of a level's nodes, given the nodes' logits [L, V]: tokens [L * width], node by node, and q [L * width, V],
        which is None in greedy decoding (point masses)."""
        if draws.is_greedy:
            return logits.topk(width, -1).indices.flatten(), None
        q, tokens, laws = draws.law(logits), [], []
        for _ in range(width):
            token = draws.draw(q)
            tokens.append(token)
            laws.append(q)
            q = q.scatter(-1, token[:, None], 0.0)
            total = q.sum(-1, keepdim=True)
            q = torch.where(total > 0, q / total, laws[-1])  # nothing left to draw: a sibling is repeated and sure to be refused
        return torch.stack(tokens, 1).flatten(), torch.stack(laws, 1).flatten(0, 1)


def growing(runner: Runner) -> Runner:
    """Return the runner if it can score trees while they grow. Raises ValueError if it cannot."""
    if not runner.facts.trees:
        raise ValueError(f"{runner.describe()} cannot grow token trees; choose a method that drafts chains (method=speculative).")
    return runner


@lru_cache(maxsize=64)
def planned(shape: Shape, limit: int, device: torch.device) -> tuple[tuple[Pass, ...], tuple[int, ...]]:
    """Return the passes that fill the shape, cut to `limit` levels, and the parents of all leaves in the order in which the passes make
    them."""
    levels = shape.cut(limit).levels
    index = lambda rows: torch.tensor(rows, dtype=torch.int64, device=device)
    passes = tuple(Pass(lv.rows, lv.width, index(lv.inner), lv.inner_parents, index(lv.leaves)) for lv in levels)
    return passes, tuple(parent for level in levels for parent in level.leaf_parents)
