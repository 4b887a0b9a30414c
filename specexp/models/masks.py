"""Additive attention masks (0 sees, the dtype's minimum does not) for a pass whose rows stand behind filled slots.

A chain of w rows behind s slots sees a band: row i sees slots 0..s+i. All such masks are views of one template, so a
round builds nothing. Trees get theirs from their parents, once per shape.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from specexp.decoding.draft import ROOT


class ChainMasks:
    """Views [1, 1, w, s + w] of a template that grows by doubling."""

    def __init__(self, dtype: torch.dtype, device: torch.device):
        self.dtype, self.device = dtype, device
        self._reach, self._widest = 0, 0
        self._template = torch.empty(0)

    def __call__(self, filled: int, width: int) -> Tensor:
        if filled > self._reach or width > self._widest:
            self._build(max(filled, 2 * self._reach, 256), max(width, self._widest, 16))
        start = self._reach - filled  # template[i, j] is 0 iff j <= reach + i; shifting columns by `start` makes it filled + i
        return self._template[None, None, :width, start : start + filled + width]

    def _build(self, reach: int, widest: int) -> None:
        self._reach, self._widest = reach, widest
        full = torch.full((widest, reach + widest), torch.finfo(self.dtype).min, dtype=self.dtype, device=self.device)
        self._template = full.triu(reach + 1)


def tree_mask(filled: int, lead: int, parents: tuple[int, ...], fed_nodes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[1, 1, lead + fed, filled + lead + fed] for `lead` context tokens and then the last `fed_nodes` nodes of a tree.

    Slots: `filled` earlier ones, of which the last (N - fed_nodes) hold the tree's first nodes; then this pass's rows.
    A node sees the context, its ancestors and itself, never a sibling.
    """
    nodes = len(parents)
    context = filled - (nodes - fed_nodes) + lead
    mask = torch.full((lead + fed_nodes, context + nodes), torch.finfo(dtype).min, dtype=dtype, device=device)
    mask[:lead] = mask[:lead].triu(context - lead + 1)
    mask[lead:, :context] = 0
    ancestors = _ancestors(parents).to(device)[nodes - fed_nodes :]
    mask[lead:, context:].masked_fill_(ancestors, 0)
    return mask[None, None]


@lru_cache(maxsize=256)
def _ancestors(parents: tuple[int, ...]) -> Tensor:
    """[N, N] bool: entry (i, j) says that j is i or stands above it."""
    sees = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent != ROOT:
            sees[node] |= sees[parent]
    return sees
