"""How an encoder-decoder model of the T5 family is called: the prompt is read once by the encoder, and the text that the decoder writes
begins with a start token of its own.

The encoder runs with the first pass after `start` (a draft that is never asked costs nothing); the keys and values of the cross-attention
are computed in that pass and kept. Positions are relative and counted from the cache's length: chains only, no token trees.
Knows nothing of drafts, nor what the slots of the cache spell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from specexp.models.architecture import Architecture
from specexp.models.caches import FullCache, SourceCache


class EncoderDecoderPass:
    """model: a T5 or one built like it. known_ids: brings ids into the range of its embeddings."""

    def __init__(self, model: torch.nn.Module, architecture: Architecture, known_ids: Callable[[Tensor], Tensor]):
        self.model, self.architecture, self.known_ids = model, architecture, known_ids
        self._source: Tensor | None = None  # [1, source tokens]
        self._encoded: Tensor | None = None  # [1, source tokens, d_model]
        self._cache: SourceCache | None = None

    @property
    def source_bytes(self) -> int:
        """Of the cross-attention's keys and values; 0 before the first pass."""
        return 0 if self._cache is None else self._cache.source_bytes

    def start(self, prompt: Sequence[int]) -> list[int]:
        """Bind the source, and give the ids that the context begins with."""
        self._source = self.known_ids(torch.tensor([list(prompt)], device=self.model.device))
        self._encoded = self._cache = None
        return [decoder_start(self.model)]

    def full(self, tokens: Tensor, rows: int) -> Tensor:
        """[n] tokens, all that the decoder has -> [rows, V] logits of the last rows, the source read again."""
        output = self.model(input_ids=self._source, decoder_input_ids=self.known_ids(tokens)[None], use_cache=False)
        return output.logits[0, -rows:]

    def cached(self, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: FullCache, rows: int) -> Tensor:
        """[n] tokens behind what the cache holds -> [rows, V]. The model counts the positions itself."""
        if self._cache is None:
            self._encoded = self.model.get_encoder()(input_ids=self._source).last_hidden_state
            self._cache = SourceCache(cache)
        output = self.model(
            encoder_outputs=(self._encoded,),
            decoder_input_ids=self.known_ids(tokens)[None],
            decoder_attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
        )
        return output.logits[0, -rows:]


def decoder_start(model: torch.nn.Module) -> int:
    """The id that every text begins with and that is no part of it (T5: the padding token)."""
    for settings in (model.generation_config, model.config):
        if (token := getattr(settings, "decoder_start_token_id", None)) is not None:
            return token
    return model.config.pad_token_id
