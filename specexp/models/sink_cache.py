"""Keys and values of the first few tokens and of the latest ones; what lies between is evicted in blocks and the rest moves up.

Slots stay positions: keys that move are turned on to their new position. Knows nothing of tokens or of when to evict.
"""

from __future__ import annotations

from specexp.models.caches import FullCache
from specexp.models.eviction import EvictionSchedule
from specexp.models.key_rotation import KeyRotation


class SinkCache(FullCache):
    """rotation: what the model does to keys, None where it leaves them alone.

    Buffers hold `schedule.max_length` slots (fewer for texts that never get there); only a token tree makes them longer, by its nodes.
    """

    def __init__(self, schedule: EvictionSchedule, rotation: KeyRotation | None) -> None:
        super().__init__()
        self.schedule, self.rotation = schedule, rotation
        self.evicted = 0

    def reserve(self, capacity: int) -> None:
        super().reserve(min(capacity, self.schedule.max_length))
        self.evicted = 0

    def clear(self) -> None:
        self.length = self.evicted = 0

    def evict(self) -> None:
        """Remove the oldest block behind the sinks. All slots have to be committed tokens."""
        sinks, block = self.schedule.sinks, self.schedule.block
        kept = self.length - sinks - block
        for keys, values in zip(self.keys, self.values, strict=True):
            later = keys.narrow(2, sinks + block, kept)
            moved = later.clone() if self.rotation is None else self.rotation.turned(later, -block)
            keys.narrow(2, sinks, kept).copy_(moved)
            values.narrow(2, sinks, kept).copy_(values.narrow(2, sinks + block, kept).clone())
        self.length -= block
        self.evicted += block

    def _enough(self, needed: int) -> int:
        """A few slots at a time: a tree's nodes are all that can pass the reserve."""
        block = self.schedule.block
        return -(-needed // block) * block
