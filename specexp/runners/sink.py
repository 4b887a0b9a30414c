"""A transformers model that reads its text through a streaming cache (`cache=sink`; Xiao et al. 2023, arXiv:2309.17453): another model
than the one with the full cache, in memory and time that do not grow with the text.

Still a pure function (context, draft) -> logits, the same for every way of cutting the text into passes: evictions come at fixed
positions, before the pass that holds the token there, and of committed tokens only. Says nothing about how good the texts are.

Keys and values of the first few tokens and of the latest ones; what lies between is evicted in blocks and the rest moves up.

Slots stay positions: keys that move are turned on to their new position. Knows nothing of tokens or of when to evict.

When a streaming cache evicts, and how much: a function of the token's index in the text alone, so that every method, however its
passes are cut, sees the same cache (Xiao et al. 2023, arXiv:2309.17453, made independent of the passes).

Knows nothing of keys, models or texts. Positions are 0-based indexes of tokens in the text.

Moving cached keys to other positions: which architectures allow it, and how their keys are turned.

Rotary positions compose: a key of position t turned on by -n is the key of position t - n. ALiBi and T5's biases are added to the scores
by distance, and keys hold no position. Learned positions are mixed into what the layers compute and cannot be taken out again.
What an architecture does is listed here by model type; a type that is not listed is refused.
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
from specexp.runners.calls import context_length, slides
from specexp.runners.runner import ModelRunner


class SinkRunner(ModelRunner):
    """sinks, max_length, block: as in EvictionSchedule. UserError for models whose keys cannot move or that lack max_length positions.

    A text longer than max_length is prefilled by the same schedule: max_length tokens, then a pass per block.
    """

    kind = "sink"
    cache_exact = False

    def __init__(self, model: torch.nn.Module, vocab_size: int | None = None, sinks: int = 4, max_length: int = 256, block: int = 32):
        self.schedule = EvictionSchedule(sinks, max_length, block)
        _check_positions(model.config, "the model", max_length)
        super().__init__(model, vocab_size, SinkCache(self.schedule, KeyRotation.of(model)))
        self.tokens_evicted = 0

    @classmethod
    def longest_text(cls, config, name: str, sinks: int = 4, max_length: int = 256, block: int = 32) -> None:
        """No text is too long: positions never pass max_length. Takes the cache's settings; UserError as in the constructor."""
        EvictionSchedule(sinks, max_length, block)
        check_keys_move(config, name)
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
            self._memo.truncate(0)  # another text, or one that ends before the last eviction: what was dropped is needed again
            self.cache.clear()
        self._advance(context)

    def _advance(self, context: Context) -> None:
        """Feed and evict up to the block of positions in which the context's last token lies."""
        while (edge := self.schedule.edge(self.cache.evicted)) < len(context):
            fed = len(self._memo.ids)
            if fed < edge:
                self._forward(context.span(fed, edge), *self._chain_geometry(self.cache.length, edge - fed), rows=1)
                self._memo.ids.extend(context.ids[fed:edge])
            self._peak = max(self._peak, self.cache.length)
            self.cache.evict()
            self.tokens_evicted += self.schedule.block


def _check_positions(config, name: str, max_length: int) -> None:
    longest = context_length(config) or getattr(config, "max_seq_len", None)  # MPT has room for that many biases
    if longest is not None and max_length > longest:
        raise UserError(f"cache.max_length={max_length} is more than the {longest} positions of {name}; give {longest} or less.")


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


HALVES = frozenset({"llama", "gpt_neox", "qwen2", "qwen3", "mistral", "phi"})  # dimension i turns with i + d/2
NEIGHBOURS = frozenset({"gptj"})  # dimension 2i turns with 2i + 1
UNROTATED = frozenset({"bloom", "mpt", "t5", "mt5"})  # biases by distance, counted from the cache's length
LEARNED = frozenset({"gpt2", "gpt_neo", "opt"})
STEADY = ("default", "linear", "llama3", "yarn")  # rotary types whose frequencies do not depend on the text's length


def check_keys_move(config, name: str) -> None:
    """UserError for a model (by its configuration, without weights) whose cached keys cannot be moved to other positions."""
    kind = config.model_type
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if kind in LEARNED:
        reason = "which learns a vector for every position, so that kept tokens cannot move up when others are evicted"
    elif kind not in HALVES | NEIGHBOURS | UNROTATED:
        reason = f"and cache=sink knows {', '.join(sorted(HALVES | NEIGHBOURS | UNROTATED))}"
    elif slides(config):
        reason = "some layers of which forget by a sliding window of their own"
    elif rope not in STEADY:
        reason = f"whose rotary positions of type {rope} change with the length of the text"
    else:
        return
    raise UserError(f"{name} is a {kind} model, {reason}: choose cache=full (specexp.perplexity: ~caches.window ~caches.sink), or another.")


@dataclass(frozen=True, eq=False)
class KeyRotation:
    """frequencies: [d/2] float64 radians per position, for the first d dimensions of each head. neighbours: (2i, 2i + 1) turn together."""

    frequencies: Tensor
    neighbours: bool
    _known: dict = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, model: torch.nn.Module) -> KeyRotation | None:
        """What the model's own layers do to keys; None where they leave them alone. UserError where keys cannot be moved."""
        config = model.config
        check_keys_move(config, getattr(config, "name_or_path", "") or "the model")
        if config.model_type in UNROTATED:
            return None
        if config.model_type in NEIGHBOURS:
            width = config.rotary_dim or config.n_embd
            return cls((1.0 / 10000 ** (torch.arange(0, width, 2) / width)).double(), neighbours=True)
        return cls(model.base_model.rotary_emb.inv_freq.cpu().double(), neighbours=False)  # not every device has float64

    def turned(self, keys: Tensor, by: int) -> Tensor:
        """[1, H, n, D] keys -> what they are `by` positions further on: a new tensor in float32 or better.

        A scale that the model puts on cosine and sine (yarn) is in the keys already and is not applied again.
        """
        turned = keys.to(torch.promote_types(keys.dtype, torch.float32), copy=True)
        cos, sin = self._angles(by, turned.dtype, turned.device)
        first, second = self._pairs(turned)
        ahead = second * cos + first * sin
        first.copy_(first * cos - second * sin)
        second.copy_(ahead)
        return turned

    def _pairs(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Views of the dimensions that turn together, [1, H, n, d/2] each."""
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
