"""The streaming cache (`cache=sink`; Xiao et al. 2023, arXiv:2309.17453): it keeps the keys and values of the first few tokens (attention
sinks) and of the latest ones, so that memory and time per token do not grow with the text.

With it a model answers otherwise than with the full cache: it is another model. It is still a pure function (context, draft) -> logits.
When tokens are evicted depends on positions in the text alone, and not on how a method cuts the text into passes, which is where this
differs from the paper. So every method sees the same cache at every token, and a lossless method gives the same text as autoregressive
decoding with this cache. Only tokens of the text are evicted, never drafted ones.

Tokens are evicted in blocks (`EvictionSchedule`). What comes after the block moves up, so that a token's slot is also its position in the
model. With 1 sink, 7 slots and blocks of 2 (blocks this small are refused; they fit the drawing):

    slot                          0  1  2  3  4  5  6
    after token 6 was fed         0  1  2  3  4  5  6
    after token 7 was fed         0  3  4  5  6  7  -       first 1 and 2 were evicted, and 3 to 6 moved up by two
    after token 9 was fed         0  5  6  7  8  9  -       first 3 and 4 were evicted

Moved keys have to become the keys of their new positions (`KeyRotation`). Rotary positions allow that: the key of position t, rotated by
another -n positions, is the key of position t - n. With ALiBi and T5's biases, which are added to the scores by distance, keys hold no
position, and nothing has to be done. Learned positions are mixed into what the layers compute and cannot be taken out again, so such models
are refused. What an architecture does is listed here by model type; a type that is not listed is refused too.

How good the texts are with such a cache is not promised; `python -m specexp.perplexity` measures it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from specexp.decoding.context import Context
from specexp.decoding.draft import Draft
from specexp.decoding.protocols import Proceeds
from specexp.decoding.sampling import Draws
from specexp.errors import UserError
from specexp.runners.caches import FullCache
from specexp.runners.lengths import context_length, slides, within_window
from specexp.runners.runner import ModelRunner


class SinkRunner(ModelRunner):
    """A model with a streaming cache. sinks, max_length, block: as in EvictionSchedule. Raises UserError for models whose keys cannot be
    moved and for models with fewer than max_length positions.

    A prompt longer than max_length is read by the same schedule: max_length tokens in the first pass, then one pass per block.
    """

    kind = "sink"
    cache_exact = False

    def __init__(self, model: torch.nn.Module, vocab_size: int | None = None, sinks: int = 4, max_length: int = 256, block: int = 32):
        self.schedule = EvictionSchedule(sinks, max_length, block)
        _check_positions(model.config, "the model", max_length)
        super().__init__(model, vocab_size, SinkCache(self.schedule, KeyRotation.of(model, max_length)))
        self.tokens_evicted = 0

    @classmethod
    def longest_text(cls, config, name: str, sinks: int = 4, max_length: int = 256, block: int = 32) -> None:
        """Return None, because no text is too long: positions never reach max_length. Raises UserError as the constructor does."""
        EvictionSchedule(sinks, max_length, block)
        check_keys_move(config, name, max_length)
        _check_positions(config, name, max_length)

    def start(self, prompt: Sequence[int], max_new_tokens: int = 0) -> list[int]:
        self.tokens_evicted = 0
        return super().start(prompt, max_new_tokens)

    def room(self, context: Context) -> int:
        return self.schedule.room(len(context))

    def logits(self, context: Context, draft: Draft, rows: int) -> Tensor:
        self._refuse_beyond(context, len(draft) if draft.is_chain else max(draft.depths))
        return super().logits(context, draft, rows)

    def rollout(self, context: Context, length: int, draws: Draws, proceeds: Proceeds | None = None) -> Draft:
        self._refuse_beyond(context, length - 1)
        return super().rollout(context, length, draws, proceeds)

    def _refuse_beyond(self, context: Context, depth: int) -> None:
        if depth > (room := self.room(context)):
            raise ValueError(f"a draft {depth} deep reaches across the next eviction, which is {room} tokens away; ask `room` first.")

    def _rewind(self, context: Context) -> None:
        super()._rewind(context)
        if self.cache.evicted and self.cache.length < self.schedule.max_length - self.schedule.block:
            self._memo.truncate(0)  # this is another text, or one that ends before the last eviction, so evicted tokens are needed again
            self.cache.clear()
        self._advance(context)

    def _advance(self, context: Context) -> None:
        """Feed the context and evict, until the cache is as it has to be when the context's last token is fed."""
        while (edge := self.schedule.edge(self.cache.evicted)) < len(context):
            fed = len(self._memo.ids)
            if fed < edge:
                self._forward(context.span(fed, edge), *self._chain_geometry(self.cache.length, edge - fed), rows=1)
                self._memo.ids.extend(context.ids[fed:edge])
            self._peak = max(self._peak, self.cache.length)
            self.cache.evict()
            self.tokens_evicted += self.schedule.block


def _check_positions(config, name: str, max_length: int) -> None:
    longest = context_length(config) or getattr(config, "max_seq_len", None)  # max_seq_len: of MPT
    if longest is not None and max_length > longest:
        raise UserError(f"cache.max_length={max_length} is more than the {longest} positions of {name}; give {longest} or less.")


class SinkCache(FullCache):
    """The buffers of keys and values. rotation: how the model rotates keys, or None if it does not.

    The buffers have `schedule.max_length` slots, or fewer for texts that are shorter. Only a token tree makes them longer, by its nodes.
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
        """Remove the oldest block after the sinks, and move what follows up. All slots have to be tokens of the text."""
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
        """Round up to whole blocks. Only a tree's nodes can need more than was reserved, so a few slots are enough."""
        block = self.schedule.block
        return -(-needed // block) * block


# A key is rotated, and rounded, once per eviction that it survives: at most (max_length - sinks) / block times, which is 7 by default.
LEAST_BLOCK = 32


@dataclass(frozen=True)
class EvictionSchedule:
    """Says when tokens are evicted, and how many. The first `sinks` tokens stay, and the latest ones, in `max_length` slots altogether.
    Each eviction removes the `block` oldest tokens after the sinks. Positions are counted from 0.

    When the token at position t is fed, evicted(t) tokens are gone, and its slot and its position in the model are t - evicted(t), which is
    less than max_length. With the defaults (4 sinks, 256 slots, blocks of 32) nothing is evicted up to position 255, 32 tokens before
    position 256 is fed, and another 32 before position 288.

    Raises UserError if max_length is less than sinks + 2 * block, which would leave hardly any window.
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
            raise UserError(f"cache.max_length={self.max_length} leaves no window after {self.sinks} sinks; give {least}.")

    def evicted(self, position: int) -> int:
        """Return how many tokens are gone when the token at `position` is fed."""
        beyond = position - self.max_length + 1
        return 0 if beyond <= 0 else -(-beyond // self.block) * self.block

    def edge(self, evicted: int) -> int:
        """Return the position before which the next eviction comes."""
        return self.max_length + evicted

    def room(self, length: int) -> int:
        """Return how many tokens that follow a text of `length` tokens may be fed together with its last one. With the defaults and 250
        tokens these are 6, the positions 250 to 255."""
        return self.edge(self.evicted(length - 1)) - length


HALVES = frozenset({"llama", "gpt_neox", "qwen2", "qwen3", "mistral", "phi"})  # dimension i is rotated together with i + d/2
NEIGHBOURS = frozenset({"gptj"})  # dimension 2i is rotated together with 2i + 1
UNROTATED = frozenset({"bloom", "mpt", "t5", "mt5"})  # these add biases by distance, counted from the cache's length
LEARNED = frozenset({"gpt2", "gpt_neo", "opt"})  # these learn a vector for every position
STEADY = ("default", "linear", "llama3", "yarn")  # rotary types whose frequencies do not depend on the text's length


def check_keys_move(config, name: str, max_length: int) -> None:
    """Raise UserError for a model whose cached keys cannot be moved to other positions, or some layers of which see less than max_length
    tokens. The configuration is enough to tell, so no weights are loaded."""
    kind = config.model_type
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if kind in LEARNED:
        reason = "which learns a vector for every position, so that kept tokens cannot move up when others are evicted"
    elif kind not in HALVES | NEIGHBOURS | UNROTATED:
        reason = f"and cache=sink knows {', '.join(sorted(HALVES | NEIGHBOURS | UNROTATED))}"
    elif slides(config) and max_length > (within_window(None, config) or 0):
        reason = f"some layers of which see a window of {config.sliding_window} tokens, fewer than cache.max_length={max_length}"
    elif rope not in STEADY:
        reason = f"whose rotary positions of type {rope} change with the length of the text"
    else:
        return
    raise UserError(f"{name} is a {kind} model, {reason}: choose cache=full (specexp.perplexity: ~caches.window ~caches.sink), or another.")


@dataclass(frozen=True, eq=False)
class KeyRotation:
    """Rotates cached keys to other positions. frequencies: [d/2] in float64, in radians per position, for the first d dimensions of each
    head. neighbours: whether dimensions 2i and 2i + 1 are rotated together, or else i and i + d/2."""

    frequencies: Tensor
    neighbours: bool
    _known: dict = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, model: torch.nn.Module, max_length: int = 0) -> KeyRotation | None:
        """Return the rotation that the model's own layers apply to keys, or None if they do not rotate them. max_length: slots of the
        cache. Raises UserError if the keys cannot be moved."""
        config = model.config
        check_keys_move(config, getattr(config, "name_or_path", "") or "the model", max_length)
        if config.model_type in UNROTATED:
            return None
        if config.model_type in NEIGHBOURS:
            width = config.rotary_dim or config.n_embd
            return cls((1.0 / 10000 ** (torch.arange(0, width, 2) / width)).double(), neighbours=True)
        return cls(model.base_model.rotary_emb.inv_freq.cpu().double(), neighbours=False)  # not every device has float64

    def turned(self, keys: Tensor, by: int) -> Tensor:
        """Return keys [1, H, n, D] as they would be `by` positions further on, in a new tensor of float32 or better.

        If the model scales cosine and sine (yarn), that scale is in the keys already and is not applied again.
        """
        turned = keys.to(torch.promote_types(keys.dtype, torch.float32), copy=True)
        cos, sin = self._angles(by, turned.dtype, turned.device)
        first, second = self._pairs(turned)
        ahead = second * cos + first * sin
        first.copy_(first * cos - second * sin)
        second.copy_(ahead)
        return turned

    def _pairs(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return views of the dimensions that are rotated together, [1, H, n, d/2] each."""
        count = self.frequencies.shape[0]
        if self.neighbours:
            return keys[..., 0 : 2 * count : 2], keys[..., 1 : 2 * count : 2]
        return keys[..., :count], keys[..., count : 2 * count]

    def _angles(self, by: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        key = (by, dtype, device)
        if key not in self._known:
            angles = by * self.frequencies
            self._known[key] = (angles.cos().to(device, dtype), angles.sin().to(device, dtype))
        return self._known[key]
