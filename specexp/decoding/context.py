"""The text so far: an append-only buffer of ids with a mirror on the device; the CPU reads the ids themselves.

Because it only grows, whoever remembers a prefix of it needs to compare nothing but what came after (`permanent`).
Knows nothing of tokenizers or of limits on its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
import torch
from torch import Tensor

FORK_ROOM = 64  # tokens a fork usually grows by


class Context:
    """ids: the tokens on the host. tokens: [len] int64, the same on the device. lineage: identifies the prompt it grew from.

    The first `permanent` ids are the trunk's: all of them here, up to the fork in a fork. Two contexts of one lineage agree on the
    smaller of their permanent lengths.
    """

    def __init__(self, prompt: Sequence[int], device: torch.device | str = "cpu", capacity: int = 0):
        self.ids: list[int] = list(prompt)
        self.lineage: object = object()
        self._fork_point: int | None = None
        self._device = torch.device(device)
        self._buffer: Tensor | None = None
        if self._device.type != "cpu":
            self._allocate(max(capacity, len(prompt), 1))
            self._mirror(0)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def tokens(self) -> Tensor:
        return self.tail(0)

    def tail(self, start: int) -> Tensor:
        """[len - start] tokens from position `start` on."""
        return self.span(start, len(self.ids))

    def span(self, start: int, end: int) -> Tensor:
        """[end - start] tokens from position `start` up to `end`."""
        if self._buffer is None:
            return torch.from_numpy(np.array(self.ids[start:end], dtype=np.int64))
        return self._buffer.narrow(0, start, end - start)

    @property
    def permanent(self) -> int:
        return len(self.ids) if self._fork_point is None else self._fork_point

    def append(self, ids: Sequence[int]) -> None:
        start = len(self.ids)
        self.ids.extend(ids)
        if self._buffer is None:
            return
        if len(self.ids) > self._buffer.shape[0]:
            self._allocate(2 * len(self.ids))
            start = 0
        self._mirror(start)

    def _allocate(self, capacity: int) -> None:
        host = torch.empty(capacity, dtype=torch.int64, pin_memory=self._device.type == "cuda")
        self._host, self._array = host, host.numpy()
        self._buffer = torch.empty_like(host, device=self._device)

    def _mirror(self, start: int) -> None:
        """Bring the ids from `start` on to the device, without waiting for it (a slot is written once, so nothing can overtake)."""
        self._array[start : len(self.ids)] = self.ids[start:]
        self.tail(start).copy_(self._host.narrow(0, start, len(self.ids) - start), non_blocking=True)

    def fork(self) -> Context:
        """A context that goes on from here without touching this one (a cascade's inner decoder writes into it)."""
        branch, length = copy(self), len(self.ids)
        branch.ids, branch._fork_point = self.ids.copy(), self.permanent
        if self._buffer is not None:
            branch._allocate(length + FORK_ROOM)
            branch._buffer[:length] = self.tokens
            branch._array[:length] = self._array[:length]
        return branch
