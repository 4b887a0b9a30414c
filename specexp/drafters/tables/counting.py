"""How often each n-gram occurs in a stream of documents: sorted keys and counts, a block of documents at a time.

Memory grows with the number of different n-grams, not with the text. N-grams never reach across documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

ORDERS = (1, 2, 3)
BLOCK = 1_000_000  # tokens counted at once


class NgramCounts:
    """keys[n]: [K] sorted int64, the n ids of a gram as digits to the base `vocab_size`; counts[n]: [K]; tokens: all that was read."""

    def __init__(self, vocab_size: int):
        self.vocab_size, self.tokens = vocab_size, 0
        self.keys = {order: torch.empty(0, dtype=torch.int64) for order in ORDERS}
        self.counts = {order: torch.empty(0, dtype=torch.int64) for order in ORDERS}

    def read(self, documents: Iterable[Sequence[int]]) -> None:
        """Count whole documents, in blocks of about BLOCK tokens."""
        block: list[Sequence[int]] = []
        size = 0
        for document in documents:
            block.append(document)
            size += len(document)
            if size >= BLOCK:
                self._count(block)
                block, size = [], 0
        self._count(block)

    def _count(self, block: list[Sequence[int]]) -> None:
        ids = torch.tensor([token for document in block for token in document], dtype=torch.int64)
        lengths = torch.tensor([len(document) for document in block], dtype=torch.int64)
        document = torch.repeat_interleave(torch.arange(len(block)), lengths)
        self.tokens += len(ids)
        for order in ORDERS:
            windows = max(0, len(ids) - order + 1)
            keys = torch.zeros(windows, dtype=torch.int64)
            for place in range(order):
                keys = keys * self.vocab_size + ids[place : place + windows]
            inside = document[:windows] == document[order - 1 : order - 1 + windows]
            self._merge(order, keys[inside])

    def _merge(self, order: int, keys: Tensor) -> None:
        fresh, counts = keys.unique(return_counts=True)
        merged, places = torch.cat([self.keys[order], fresh]).unique(return_inverse=True)
        totals = torch.zeros(len(merged), dtype=torch.int64)
        self.counts[order] = totals.index_add_(0, places, torch.cat([self.counts[order], counts]))
        self.keys[order] = merged
