"""Attention masks for a pass whose rows follow filled slots. They are added to the attention scores: 0 lets a row see a slot, and the
smallest number of the type hides it.

In a chain of w rows after s filled slots, row i sees the slots 0 to s + i. Here with s = 3 and w = 3 (x: sees):

        slot    0 1 2 | 3 4 5
        row 0   x x x | x . .
        row 1   x x x | x x .
        row 2   x x x | x x x

All such masks are views of a few templates, so a round builds none. In a tree a row sees the context, its ancestors and itself. Here for a
tree with parents (-1, -1, 0), where the nodes 0 and 1 follow the context and node 2 follows node 0:

        slot    context | 0 1 2
        node 0  x x x x | x . .
        node 1  x x x x | . x .
        node 2  x x x x | x . x

Which nodes are ancestors is computed once per tree shape.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from specexp.decoding.draft import ROOT

_ALIGNED = 8  # attention kernels read masks in pieces of 16 bytes, so rows and views begin at multiples of 8 elements


class ChainMasks:
    """Gives masks for chains, [1, 1, w, s + w], as views of templates. There is one template for each s modulo 8, so that every view is
    aligned, and templates grow by doubling.

    A template hides everything to the right of a diagonal. A view that begins further left has more filled slots before the diagonal, so
    one template serves all numbers of filled slots that are equal modulo 8.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device):
        self.dtype, self.device = dtype, device
        self._reach, self._widest = 0, 0  # the most filled slots and the most rows that the templates serve
        self._templates: dict[int, Tensor] = {}

    def __call__(self, filled: int, width: int) -> Tensor:
        if filled > self._reach or width > self._widest:
            self._reach = aligned(max(filled, 2 * self._reach, 256))
            self._widest = aligned(max(width, self._widest))
            self._templates.clear()
        phase = filled % _ALIGNED
        if phase not in self._templates:
            self._templates[phase] = self._build(self._reach + phase)
        start = self._reach + phase - filled  # template[i, j] is 0 iff j <= reach + phase + i, and column j of the view is j + start
        return self._templates[phase].narrow(2, 0, width).narrow(3, start, filled + width)

    def _build(self, reach: int) -> Tensor:
        shape = (1, 1, self._widest, aligned(reach + self._widest))
        return torch.full(shape, torch.finfo(self.dtype).min, dtype=self.dtype, device=self.device).triu(reach + 1)


def tree_mask(filled: int, lead: int, parents: tuple[int, ...], fed_nodes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the mask of a pass over `lead` context tokens and then the last `fed_nodes` nodes of a tree of N nodes: [1, 1, lead +
    fed_nodes, filled + lead + fed_nodes].

    The first `filled` slots are filled already; the last N - fed_nodes of them hold the tree's first nodes. The slots of this pass's rows
    follow. A node sees the context, its ancestors and itself, and never a sibling.
    """
    nodes = len(parents)
    context = filled - (nodes - fed_nodes) + lead
    rows = torch.full((lead + fed_nodes, aligned(context + nodes)), torch.finfo(dtype).min, dtype=dtype, device=device)
    mask = rows.narrow(1, 0, context + nodes)
    mask[:lead] = mask[:lead].triu(context - lead + 1)
    mask[lead:, :context] = 0
    ancestors = _ancestors(parents).to(device)[nodes - fed_nodes :]
    mask[lead:, context:].masked_fill_(ancestors, 0)
    return mask[None, None]


def aligned(count: int) -> int:
    return -(-count // _ALIGNED) * _ALIGNED


@lru_cache(maxsize=256)
def _ancestors(parents: tuple[int, ...]) -> Tensor:
    """Return [N, N] bool, whose entry (i, j) is true if node j is node i or one of its ancestors."""
    sees = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent != ROOT:
            sees[node] |= sees[parent]
    return sees
