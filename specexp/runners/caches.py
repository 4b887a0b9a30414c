"""Buffers of keys and values that are allocated beforehand and addressed by position. Appending writes into them in place; taking tokens
back only makes a number, the length, smaller.

Here the slot of a token is its position in the text. The caches that evict tokens (sink.py) and that serve captured passes (static.py) are
built on these classes. This is the only file that touches transformers' cache classes. A cache knows nothing of tokens: which ids its slots
belong to is kept in a `Memo` (memo.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, EncoderDecoderCache

SPARE = 64  # when a pass outgrows a buffer, the new buffer has this many slots more than the pass needs


class FullCache(Cache):
    """Keeps every position. Each layer has one [1, H, capacity, d] buffer for keys and one for values, of which the slots [0, length) are
    filled.

    A pass over n tokens writes the slots [length, length + n) of every layer, and its caller then sets `length`. To take tokens back, the
    caller sets `length` to less:

        slots      0  1  2  3  4  5  6        After "A B C" three drafted tokens were fed (length 6). Only x is accepted, so length
        contents   A  B  C  x  y  z  -        becomes 4, and the next pass writes over y and z.

    Buffers are kept from prompt to prompt, and grow a little if a pass needs more than was reserved.
    """

    is_sliding = is_linear = is_dummy = (False,)  # transformers asks for these in every pass; the base class would go through all layers
    is_compileable = False
    evicted = 0  # how many tokens of the text have no slot any more

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.length = 0
        self._capacity = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def reserve(self, capacity: int) -> None:
        """Empty the cache and make room for `capacity` positions, so that nothing is allocated while decoding."""
        self.length = 0
        if not self._holds(capacity):
            self.keys, self.values, self._capacity = [], [], capacity

    def _holds(self, capacity: int) -> bool:
        """Whether the buffers have room for `capacity` positions. If an allocation failed halfway they do not."""
        return bool(self.keys) and len(self.keys) == len(self.values) and self.values[-1].shape[2] >= capacity

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Write keys and values, [1, H, n, d] each, and return views of the filled part, [1, H, length + n, d]. (The signature is that of
        transformers' interface.)"""
        count = key_states.shape[2]
        end = self.length + count
        if layer_idx == len(self.keys):
            self.keys.append(self._made(key_states, max(end, self._capacity)))
            self.values.append(self._made(value_states, max(end, self._capacity)))
        keys, values = self.filled(layer_idx, end)
        keys.narrow(2, self.length, count).copy_(key_states)
        values.narrow(2, self.length, count).copy_(value_states)
        return keys, values

    def filled(self, layer: int, end: int) -> tuple[Tensor, Tensor]:
        """Return views of a layer's slots [0, end), to write the last of them. The layer has to have been written before."""
        if end > self.keys[layer].shape[2]:
            self.keys[layer] = _grown(self.keys[layer], self.length, self._enough(end))
            self.values[layer] = _grown(self.values[layer], self.length, self._enough(end))
        return self.keys[layer].narrow(2, 0, end), self.values[layer].narrow(2, 0, end)

    def _made(self, states: Tensor, capacity: int) -> Tensor:
        return _buffer(states, capacity)

    def _enough(self, needed: int) -> int:
        """Return how many slots to allocate when `needed` is more than was reserved, as happens near the end of a text when all nodes of a
        token tree are fed."""
        return needed + SPARE

    def gather(self, slots: list[int], start: int) -> None:
        """Move the contents of `slots` (ascending, all >= start) to start, start + 1, and so on. The accepted path of a tree thus becomes
        part of the text: with slots=[6, 8] and start=5 what is in 6 moves to 5, and what is in 8 to 6."""
        index = torch.tensor(slots)
        for buffer in (*self.keys, *self.values):
            if index.device != buffer.device:  # the index is copied once, or more often if the layers are on several devices
                index = index.to(buffer.device)
            buffer[:, :, start : start + len(slots)] = buffer.index_select(2, index)

    @property
    def bytes_per_slot(self) -> int:
        return sum(b.shape[1] * b.shape[3] * b.element_size() for b in (*self.keys, *self.values))

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self.length + int(query_length), 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.length

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        return -1

    def __len__(self) -> int:
        return len(self.keys)


class SourceCache(EncoderDecoderCache):
    """The cache of a decoder together with the keys and values of its source. The first pass writes the source's, later passes only read
    them."""

    def __init__(self, decoder: FullCache) -> None:
        super().__init__(decoder, DynamicCache())

    @property
    def source_bytes(self) -> int:
        layers = self.cross_attention_cache.layers
        return sum(states[:1].nbytes for layer in layers for states in (layer.keys, layer.values))


def held_bytes(cache: Cache, slots: int) -> int:
    """Return the bytes of the first `slots` positions in one of transformers' own caches. A layer with a sliding window counts only what it
    holds now, and the keys and values of a source count in full."""
    if cache is None:  # a model that has states of its own, and no cache at all
        return 0
    if isinstance(cache, EncoderDecoderCache):
        source = [layer for layer in cache.cross_attention_cache.layers if layer.is_initialized]
        return held_bytes(cache.self_attention_cache, slots) + sum(layer.keys.nbytes + layer.values.nbytes for layer in source)
    return sum(_layer_bytes(layer, slots) for layer in getattr(cache, "layers", ()))


def _layer_bytes(layer: CacheLayerMixin, slots: int) -> int:
    """Of one layer. One that shares the keys of another has none, and the state of a layer that has one is as large for any text."""
    parts = (dict(getattr(layer, name, None) or {}) for name in ("conv_states", "recurrent_states"))
    states = sum(state.nbytes for part in parts for state in part.values() if isinstance(state, Tensor))
    if not isinstance(getattr(layer, "keys", None), Tensor):
        return states
    held = layer.keys.shape[-2]
    return states + (layer.keys.nbytes + layer.values.nbytes) // max(held, 1) * (min(slots, held) if layer.is_sliding else slots)


class BeamCache(FullCache):
    """One row per beam: the buffers are [rows, H, capacity, d]. The prompt is read into row 0 and then copied to the others once.

    The buffers do not grow, because a search knows its longest text beforehand.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows = 1
        self._shared = 0  # how many leading slots are the same in every row

    def reserve(self, capacity: int, rows: int = 1) -> None:
        """Empty the cache and make room for `rows` texts of `capacity` positions."""
        super().reserve(capacity)
        if self.keys and self.keys[0].shape[0] < rows:
            self.keys, self.values = [], []
        self._rows, self._shared = rows, 0

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Write keys and values of the first n rows, [n, H, w, d] each, and return views of the rows' filled part, [n, H, length + w,
        d]."""
        if layer_idx == len(self.keys):
            self.keys.append(_buffer(key_states, self._capacity, self._rows))
            self.values.append(_buffer(value_states, self._capacity, self._rows))
        return self._written(self.keys[layer_idx], key_states), self._written(self.values[layer_idx], value_states)

    def _written(self, buffer: Tensor, states: Tensor) -> Tensor:
        filled = buffer.narrow(0, 0, states.shape[0]).narrow(2, 0, self.length + states.shape[2])
        filled.narrow(2, self.length, states.shape[2]).copy_(states)
        return filled

    def spread(self) -> None:
        """Copy row 0 to all rows. Every beam then has the prompt, which `reorder` need not move again."""
        for buffer in (*self.keys, *self.values):
            buffer[1:, :, : self.length] = buffer[:1, :, : self.length]
        self._shared = self.length

    def reorder(self, parents: Sequence[int]) -> None:
        """Make row i a copy of what row parents[i] was."""
        width = self.length - self._shared
        if width == 0 or list(parents) == list(range(len(parents))):
            return
        index = torch.tensor(parents)
        for buffer in (*self.keys, *self.values):
            if index.device != buffer.device:
                index = index.to(buffer.device)
            own = buffer.narrow(2, self._shared, width)
            own[: len(parents)] = own.index_select(0, index)


class BeamSourceCache(SourceCache):
    """The beams' own cache together with one copy of the source's keys and values (for cross-attention), which all rows read."""

    def show(self, rows: int) -> None:
        """Show the source to passes over `rows` texts, as views without copying. The first pass, over one text, writes the source's keys
        and values."""
        for layer in self.cross_attention_cache.layers:
            layer.keys, layer.values = (states[:1].expand(rows, -1, -1, -1) for states in (layer.keys, layer.values))


def _buffer(states: Tensor, capacity: int, rows: int = 1) -> Tensor:
    _, heads, _, width = states.shape
    return states.new_empty(rows, heads, capacity, width)


def _grown(buffer: Tensor, length: int, capacity: int) -> Tensor:
    batch, heads, _, width = buffer.shape
    grown = buffer.new_empty(batch, heads, capacity, width)
    grown.narrow(2, 0, length).copy_(buffer.narrow(2, 0, length))
    return grown
