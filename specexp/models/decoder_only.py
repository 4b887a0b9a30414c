"""How a decoder-only model is called: the prompt is the beginning of the text. Keeps nothing between calls; the cache is the caller's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from specexp.models.architecture import Architecture


class DecoderOnlyPass:
    """model: a causal LM. known_ids: brings ids into the range of its embeddings."""

    source_bytes = 0

    def __init__(self, model: torch.nn.Module, architecture: Architecture, known_ids: Callable[[Tensor], Tensor]):
        self.model, self.architecture, self.known_ids = model, architecture, known_ids

    def start(self, prompt: Sequence[int]) -> list[int]:
        """The ids that the context begins with."""
        return list(prompt)

    def reserve(self, length: int) -> None:
        """Make what passes over texts of up to `length` tokens look up, so that nothing is made while they run."""

    def full(self, tokens: Tensor, rows: int) -> Tensor:
        """[n] tokens, all there are -> [rows, V] logits of the last rows."""
        return self.model(input_ids=self.known_ids(tokens)[None], use_cache=False).logits[0, -rows:]

    def cached(self, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: object, rows: int) -> Tensor:
        """[n] tokens and their positions, behind what the cache holds -> [rows, V]; their keys and values are written into the cache."""
        inputs = {"position_ids": positions[None]} if self.architecture.positions else {}
        if self.architecture.trims_logits:
            inputs["logits_to_keep"] = rows
        output = self.model(input_ids=self.known_ids(tokens)[None], attention_mask=mask, past_key_values=cache, use_cache=True, **inputs)
        return output.logits[0] if self.architecture.trims_logits else output.logits[0, -rows:]
