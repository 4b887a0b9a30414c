"""The text so far: an append-only buffer of ids with a mirror on the device.

Because it only grows, whoever remembers a prefix of it needs to compare nothing but what came after (`permanent`).
Knows nothing of tokenizers or of limits on its length.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Context:
    """ids: the tokens on the host. tokens: [len] int64, the same on the device. lineage: identifies the prompt it grew from.

    The first `permanent` ids are the trunk's: all of them here, up to the fork in a fork. Two contexts of one lineage agree on the
    smaller of their permanent lengths.
    """

    def __init__(self, prompt: Sequence[int], device: torch.device | str = "cpu", capacity: int = 0):
        self.ids: list[int] = list(prompt)
        self.lineage: object = object()
        self._fork_point: int | None = None
        self._buffer = torch.empty(max(capacity, len(prompt), 1), dtype=torch.int64, device=device)
        self._buffer[: len(prompt)] = torch.tensor(self.ids, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def device(self) -> torch.device:
        return self._buffer.device

    @property
    def tokens(self) -> Tensor:
        return self._buffer[: len(self.ids)]

    def tail(self, start: int) -> Tensor:
        """[len - start] tokens from position `start` on."""
        return self._buffer.narrow(0, start, len(self.ids) - start)

    @property
    def permanent(self) -> int:
        return len(self.ids) if self._fork_point is None else self._fork_point

    def append(self, ids: Sequence[int]) -> None:
        start = len(self.ids)
        self.ids.extend(ids)
        if len(self.ids) > self._buffer.shape[0]:
            grown = torch.empty(2 * len(self.ids), dtype=torch.int64, device=self.device)
            grown[:start] = self._buffer[:start]
            self._buffer = grown
        self.tail(start).copy_(torch.tensor(ids, dtype=torch.int64))

    def fork(self) -> Context:
        """A context that goes on from here without touching this one (a cascade's inner decoder writes into it)."""
        branch = Context(self.ids, self.device, capacity=len(self.ids) + 64)
        branch.lineage, branch._fork_point = self.lineage, self.permanent
        return branch
