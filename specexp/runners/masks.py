"""Additive attention masks (0 sees, the dtype's minimum does not) for a pass whose rows stand behind filled slots.

A chain of w rows behind s slots sees a band: row i sees slots 0..s+i. All such masks are views of one template, so a
round builds nothing. Trees get theirs from their parents, once per shape.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from specexp.decoding.draft import ROOT

_ALIGNED = 8  # elements: attention kernels read masks in 16-byte pieces, so rows and views begin at multiples of this


class ChainMasks:
    """Views [1, 1, w, s + w] of templates that grow by doubling, one for each s modulo the alignment."""

    def __init__(self, dtype: torch.dtype, device: torch.device):
        self.dtype, self.device = dtype, device
        self._reach, self._widest = 0, 0  # most filled slots and rows that the templates serve
        self._templates: dict[int, Tensor] = {}

    def __call__(self, filled: int, width: int) -> Tensor:
        if filled > self._reach or width > self._widest:
            self._reach = aligned(max(filled, 2 * self._reach, 256))
            self._widest = aligned(max(width, self._widest))
            self._templates.clear()
        phase = filled % _ALIGNED
        if phase not in self._templates:
            self._templates[phase] = self._build(self._reach + phase)
        start = self._reach + phase - filled  # template[i, j] is 0 iff j <= reach + phase + i; from column `start` on: filled + i
        return self._templates[phase].narrow(2, 0, width).narrow(3, start, filled + width)

    def _build(self, reach: int) -> Tensor:
        shape = (1, 1, self._widest, aligned(reach + self._widest))
        return torch.full(shape, torch.finfo(self.dtype).min, dtype=self.dtype, device=self.device).triu(reach + 1)


def tree_mask(filled: int, lead: int, parents: tuple[int, ...], fed_nodes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[1, 1, lead + fed, filled + lead + fed] for `lead` context tokens and then the last `fed_nodes` nodes of a tree.

    Slots: `filled` earlier ones, of which the last (N - fed_nodes) hold the tree's first nodes; then this pass's rows.
    A node sees the context, its ancestors and itself, never a sibling.
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
    """[N, N] bool: entry (i, j) says that j is i or stands above it."""
    sees = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent != ROOT:
            sees[node] |= sees[parent]
    return sees
