"""A queue in which clients take turns, so that one who asks a hundred times does not make the others wait a hundred times."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Full(Exception):
    """As many wait as may."""


class FairQueue(Generic[T]):
    """First come, first served within a client; between clients round-robin. limit: items in all."""

    def __init__(self, limit: int):
        self.limit = limit
        self._clients: OrderedDict[Hashable, deque[T]] = OrderedDict()  # in the order of their next turns

    def __len__(self) -> int:
        return sum(map(len, self._clients.values()))

    def put(self, client: Hashable, item: T) -> None:
        """Raises Full."""
        if len(self) >= self.limit:
            raise Full
        self._clients.setdefault(client, deque()).append(item)

    def take(self) -> T:
        """The next item; its client's next turn comes after all others'. Raises KeyError where nothing waits."""
        client, items = self._clients.popitem(last=False)
        item = items.popleft()
        if items:
            self._clients[client] = items
        return item

    def drop(self, client: Hashable, item: T) -> None:
        """Take it out of its place, if it still waits."""
        items = self._clients.get(client, deque())
        if item in items:
            items.remove(item)
        if not items:
            self._clients.pop(client, None)
