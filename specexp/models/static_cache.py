"""Keys and values at addresses that never change, for passes of fixed shape that are captured and launched again.

Where a pass writes is a tensor (`slots`), how far it sees a number (`reach`): both are set by whoever runs it. Knows nothing of graphs.
"""

from __future__ import annotations

from torch import Tensor

from specexp.models.caches import FullCache


class StaticCache(FullCache):
    """As FullCache, whose capacity is rounded up to multiples of `block`, with `spare` slots behind the text for drafts and for rows that
    only fill a shape; longer drafts make it grow.

    `addresses` changes when buffers are replaced: what was captured before is then worthless.
    """

    is_compileable = True

    def __init__(self, block: int, spare: int) -> None:
        super().__init__()
        self.block, self.spare = block, spare
        self.addresses = 0
        self.slots: Tensor | None = None  # [w] of a pass of fixed shape; None: as FullCache, behind what is filled
        self.reach = 0

    @property
    def capacity(self) -> int:
        return self._capacity

    def reserve(self, capacity: int) -> None:
        self.slots = None  # whatever a pass that failed left
        enough = self._rounded(capacity + self.spare)
        self.addresses += not self._holds(enough)
        super().reserve(enough)

    def grow(self, needed: int) -> None:
        """Room for `needed` slots, what is filled kept."""
        for layer in range(len(self.keys)):
            self.filled(layer, needed)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """[1, H, w, d] each -> views of the first `reach` slots."""
        if self.slots is None:
            return super().update(key_states, value_states, layer_idx)
        keys = self.keys[layer_idx].index_copy_(2, self.slots, key_states)
        values = self.values[layer_idx].index_copy_(2, self.slots, value_states)
        return keys.narrow(2, 0, self.reach), values.narrow(2, 0, self.reach)

    def _made(self, states: Tensor, capacity: int) -> Tensor:
        """Zeros: what was never written is seen, and weighs nothing, only if it is a number."""
        return super()._made(states, capacity).zero_()

    def _enough(self, needed: int) -> int:
        self.addresses += 1
        self._capacity = self._rounded(needed)
        return self._capacity

    def _rounded(self, slots: int) -> int:
        return -(-slots // self.block) * self.block

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return (self.reach, 0) if self.slots is not None else super().get_mask_sizes(query_length, layer_idx)
