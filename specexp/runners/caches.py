"""Keys and values, preallocated and addressed by position: appending writes in place, rolling back moves a length.

The only file that touches transformers' cache classes. Knows nothing of tokens: what the slots spell is the memo's business.
Positions equal slots; evicting (sink_cache.py) and captured caches are other classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, EncoderDecoderCache

SPARE = 64  # slots that a buffer gets beyond what a pass needs that outgrew it


class FullCache(Cache):
    """Keeps every position. Per layer one [1, H, capacity, d] buffer for keys and one for values; slots [0, length) are filled.

    Buffers are kept between prompts, and grow a little should a pass outgrow what was reserved.

    A pass over n tokens writes slots [length, length + n) of every layer; its caller then sets `length`.
    """

    is_sliding = is_linear = is_dummy = (False,)  # asked by transformers per pass; the base class would ask every layer
    is_compileable = False
    evicted = 0  # tokens of the text that have no slot any more, all from before those that moved up

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.length = 0
        self._capacity = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def reserve(self, capacity: int) -> None:
        """Empty, with room for `capacity` positions, so that nothing is allocated while decoding."""
        self.length = 0
        if not self._holds(capacity):
            self.keys, self.values, self._capacity = [], [], capacity

    def _holds(self, capacity: int) -> bool:
        """What an allocation that failed left in pieces does not."""
        return bool(self.keys) and len(self.keys) == len(self.values) and self.values[-1].shape[2] >= capacity

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """[1, H, n, d] each -> views of the filled part, [1, H, length + n, d]. (Signature: transformers' interface.)"""
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
        """Views of a layer's slots [0, end), for whoever writes the last of them; the layer has been written before."""
        if end > self.keys[layer].shape[2]:
            self.keys[layer] = _grown(self.keys[layer], self.length, self._enough(end))
            self.values[layer] = _grown(self.values[layer], self.length, self._enough(end))
        return self.keys[layer].narrow(2, 0, end), self.values[layer].narrow(2, 0, end)

    def _made(self, states: Tensor, capacity: int) -> Tensor:
        return _buffer(states, capacity)

    def _enough(self, needed: int) -> int:
        """Slots to have once `needed` are more than were reserved: a token tree's nodes are, near the end of a text."""
        return needed + SPARE

    def gather(self, slots: list[int], start: int) -> None:
        """Move the rows in `slots` (ascending, all >= start) to start, start + 1, ...: an accepted tree path becomes a chain."""
        index = torch.tensor(slots)
        for buffer in (*self.keys, *self.values):
            if index.device != buffer.device:  # once, but for layers on several devices
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
    """What a decoder has cached, and the keys and values of its source: the first pass writes those, later ones only read them."""

    def __init__(self, decoder: FullCache) -> None:
        super().__init__(decoder, DynamicCache())

    @property
    def source_bytes(self) -> int:
        layers = self.cross_attention_cache.layers
        return sum(states[:1].nbytes for layer in layers for states in (layer.keys, layer.values))


def held_bytes(cache: Cache, slots: int) -> int:
    """Of the first `slots` positions in one of transformers' own caches; a layer with a window holds no more than it does now, and the keys
    and values of a source count whole."""
    if isinstance(cache, EncoderDecoderCache):
        source = [layer for layer in cache.cross_attention_cache.layers if layer.is_initialized]
        return held_bytes(cache.self_attention_cache, slots) + sum(layer.keys.nbytes + layer.values.nbytes for layer in source)
    return sum(_layer_bytes(layer, slots) for layer in cache.layers if layer.is_initialized)


def _layer_bytes(layer: CacheLayerMixin, slots: int) -> int:
    held = layer.keys.shape[-2]
    return (layer.keys.nbytes + layer.values.nbytes) // held * (min(slots, held) if layer.is_sliding else slots)


class BeamCache(FullCache):
    """One row per beam: buffers [rows, H, capacity, d]. The prompt is prefilled into row 0 and copied to the others once.

    What is reserved has to suffice: a search knows its longest text.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows = 1
        self._shared = 0  # leading slots that are the same in every row

    def reserve(self, capacity: int, rows: int = 1) -> None:
        """Empty, with room for `rows` texts of `capacity` positions."""
        super().reserve(capacity)
        if self.keys and self.keys[0].shape[0] < rows:
            self.keys, self.values = [], []
        self._rows, self._shared = rows, 0

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """[n, H, w, d] each, for the first n rows -> views of their filled part, [n, H, length + w, d]."""
        if layer_idx == len(self.keys):
            self.keys.append(_buffer(key_states, self._capacity, self._rows))
            self.values.append(_buffer(value_states, self._capacity, self._rows))
        return self._written(self.keys[layer_idx], key_states), self._written(self.values[layer_idx], value_states)

    def _written(self, buffer: Tensor, states: Tensor) -> Tensor:
        filled = buffer.narrow(0, 0, states.shape[0]).narrow(2, 0, self.length + states.shape[2])
        filled.narrow(2, self.length, states.shape[2]).copy_(states)
        return filled

    def spread(self) -> None:
        """Row 0 into all rows: from here on every beam has the prompt, which `reorder` need not move again."""
        for buffer in (*self.keys, *self.values):
            buffer[1:, :, : self.length] = buffer[:1, :, : self.length]
        self._shared = self.length

    def reorder(self, parents: Sequence[int]) -> None:
        """Row i becomes what row parents[i] was."""
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
    """The beams' own cache, and beside it one copy of the source's keys and values (cross-attention) that every row sees."""

    def show(self, rows: int) -> None:
        """To passes over `rows` texts: views, no copies. The first pass, over one text, writes what is shown."""
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
