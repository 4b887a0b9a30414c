"""A transformers model that reads its text through a streaming cache (`cache=sink`; Xiao et al. 2023, arXiv:2309.17453): another model
than the one with the full cache, in memory and time that do not grow with the text.

Still a pure function (context, draft) -> logits, the same for every way of cutting the text into passes: evictions come at fixed
positions, before the pass that holds the token there, and of committed tokens only. Says nothing about how good the texts are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from specexp.decoding.chance import Chance
from specexp.decoding.context import Context
from specexp.decoding.draft import Draft
from specexp.decoding.protocols import Proceeds, Scores
from specexp.decoding.sampling import Sampling
from specexp.errors import UserError
from specexp.models.eviction import EvictionSchedule
from specexp.models.key_rotation import KeyRotation, check_keys_move
from specexp.models.loading import context_length
from specexp.models.runner import ModelRunner
from specexp.models.sink_cache import SinkCache


class SinkRunner(ModelRunner):
    """sinks, max_length, block: as in EvictionSchedule. UserError for models whose keys cannot move or that lack max_length positions.

    A text longer than max_length is prefilled by the same schedule: max_length tokens, then a pass per block.
    """

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

    def logits(self, context: Context, draft: Draft, rows: int) -> Scores:
        self._refuse_beyond(context, len(draft) if draft.is_chain else max(draft.depths))
        return super().logits(context, draft, rows)

    def rollout(self, context: Context, length: int, sampling: Sampling, chance: Chance, proceeds: Proceeds | None = None) -> Draft:
        self._refuse_beyond(context, length - 1)
        return super().rollout(context, length, sampling, chance, proceeds)

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
