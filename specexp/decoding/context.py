"""The text so far, as token ids: a list on the host that only grows, and a copy of it on the device if that is not the CPU.

Because a context only grows, a cache that holds its beginning has to compare only the tokens that came later (see `permanent`). A context
knows nothing of tokenizers or of a limit on its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
import torch
from torch import Tensor

FORK_ROOM = 64  # the number of tokens that a fork gets room for beyond the text it starts with


class Context:
    """A text of token ids. ids: the tokens on the host. tokens: [len] int64, the same on the device. lineage: an object that identifies the
    prompt that the context grew from; forks share it.

    The first `permanent` ids will never change. In a text that is being decoded these are all ids; in a fork they are the ids up to the
    place where it was forked off. Two contexts of one lineage have equal ids up to the smaller of their permanent lengths:

        text   A B C D E F      permanent = 6
        fork   A B C D x y      permanent = 4, since it was forked off after D
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
        """Return the [len - start] tokens from position `start` on."""
        return self.span(start, len(self.ids))

    def span(self, start: int, end: int) -> Tensor:
        """Return the [end - start] tokens from position `start` up to `end`."""
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
        """Copy the ids from `start` on to the device without waiting for it. Each slot is written once, so a later copy cannot replace
        what an earlier one has yet to read."""
        self._array[start : len(self.ids)] = self.ids[start:]
        self.tail(start).copy_(self._host.narrow(0, start, len(self.ids) - start), non_blocking=True)

    def fork(self) -> Context:
        """Return a context that begins with this text and grows independently of it. In a cascade the inner decoders write into one."""
        branch, length = copy(self), len(self.ids)
        branch.ids, branch._fork_point = self.ids.copy(), self.permanent
        if self._buffer is not None:
            branch._allocate(length + FORK_ROOM)
            branch._buffer[:length] = self.tokens
            branch._array[:length] = self._array[:length]
        return branch
