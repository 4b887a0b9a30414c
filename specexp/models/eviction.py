"""When a streaming cache evicts, and how much: a function of the token's index in the text alone, so that every method, however its
passes are cut, sees the same cache (Xiao et al. 2023, arXiv:2309.17453, made independent of the passes).

Knows nothing of keys, models or texts. Positions are 0-based indexes of tokens in the text.
"""

from __future__ import annotations

from dataclasses import dataclass

from specexp.errors import UserError

LEAST_BLOCK = 32  # a kept key is turned once per block: (max_length - sinks) / block roundings at most, and the copying is spread


@dataclass(frozen=True)
class EvictionSchedule:
    """The first `sinks` tokens stay, and the latest up to `max_length` slots in all; evictions remove `block` tokens behind the sinks.

    The token at position t is fed when evicted(t) tokens are gone, and its slot and position in the model are t - evicted(t) < max_length.
    Raises UserError where there would be no window left to speak of.
    """

    sinks: int = 4
    max_length: int = 256
    block: int = LEAST_BLOCK

    def __post_init__(self) -> None:
        if self.sinks < 0:
            raise UserError(f"cache.sinks={self.sinks} is negative; give 0 for a plain window, or 4 as the paper does.")
        if self.block < LEAST_BLOCK:
            raise UserError(f"cache.block={self.block} evicts too often for keys in half precision; give {LEAST_BLOCK} or more.")
        if self.max_length < self.sinks + 2 * self.block:
            least = f"sinks + 2 * block = {self.sinks + 2 * self.block} or more"
            raise UserError(f"cache.max_length={self.max_length} leaves no window behind {self.sinks} sinks; give {least}.")

    def evicted(self, position: int) -> int:
        """Tokens that are gone when the token at `position` is fed."""
        beyond = position - self.max_length + 1
        return 0 if beyond <= 0 else -(-beyond // self.block) * self.block

    def edge(self, evicted: int) -> int:
        """The position before which the next eviction comes."""
        return self.max_length + evicted

    def room(self, length: int) -> int:
        """How many tokens behind a text of `length` tokens may be fed with its last one."""
        return self.edge(self.evicted(length - 1)) - length
