"""A transformers model, run over all beams of a search: the prompt is read once, and then each pass takes one token per beam.

Decoder-only models and the T5 family are supported. Each has two runners: one with a cache, and one that reads every whole text in each
pass, which is slow and serves as the reference that the first is tested against. The runners know nothing of scores, rules or text.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specexp.decoding.beam import BeamRunner
from specexp.decoding.protocols import Facts, Usage
from specexp.errors import UserError
from specexp.runners.caches import BeamCache, BeamSourceCache
from specexp.runners.calls import Architecture, decoder_start
from specexp.runners.runner import KnownIds, ModelRunner, StatelessRunner, fit_vocabulary


def beam_runner(runner: ModelRunner | StatelessRunner) -> BeamRunner:
    """Return a runner over beams for the same model and kind of cache. Raises UserError for a cache that can hold only one text."""
    cache = runner.facts.kind
    if cache not in ("full", "compiled", "none"):
        raise UserError(f"cache={cache} holds one text, and beam search needs one per beam; choose cache=full or cache=none.")
    has_encoder = runner.model.config.is_encoder_decoder
    if cache == "none":
        kind = StatelessSourceBeamRunner if has_encoder else StatelessBeamRunner
    else:
        kind = SourceBeamRunner if has_encoder else CachedBeamRunner
    return kind(runner.model, runner.vocab_size)


class CachedBeamRunner:
    """Runs one pass per token over [beams, 1] ids. model: in eval mode. vocab_size: the width that the logits are cut or padded to."""

    def __init__(self, model: torch.nn.Module, vocab_size: int | None = None):
        self.model = model
        self.device = model.device
        self.facts = Facts("full", self.device, trees=False, cache_exact=True)
        self.architecture = Architecture.of(model)
        self.vocab_size = vocab_size
        self._known_ids = KnownIds(model, vocab_size)
        self.cache = BeamCache()
        self.forwards = self._earlier = 0  # the passes since construction, and those before the last `start`
        self._peak = 0  # the most slots that were filled, all rows together

    def usage(self) -> Usage:
        return Usage(self.forwards - self._earlier, self.kv_bytes)

    @property
    def kv_bytes(self) -> int:
        return self._peak * self.cache.bytes_per_slot

    def start(self, prompt: Sequence[int], max_new_tokens: int, num_beams: int) -> Tensor:
        opening, self._earlier = self._open(prompt), self.forwards
        self.cache.reserve(len(opening) + max_new_tokens, num_beams)
        self._peak = 0
        logits = self._forward(torch.tensor([opening], device=self.device))
        self.cache.spread()
        self._peak = num_beams * len(opening)
        return logits

    def logits(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        self.cache.reorder(parents)
        return self._forward(torch.tensor(tokens, device=self.device)[:, None])

    def _open(self, prompt: Sequence[int]) -> list[int]:
        """Return the ids that every text begins with."""
        return list(prompt)

    def _forward(self, tokens: Tensor) -> Tensor:
        """Feed [rows, n] tokens, whose keys and values go into the slots from `cache.length` on. Returns the logits of the last one,
        [rows, V]."""
        logits = self._pass(self._known_ids(tokens))[:, -1]
        rows, width = tokens.shape
        self.cache.length += width
        self._peak = max(self._peak, rows * self.cache.length)
        self.forwards += 1
        return fit_vocabulary(logits, self.vocab_size)

    def _pass(self, tokens: Tensor) -> Tensor:
        """Return logits, [rows, n, V] or [rows, 1, V]. No mask is needed, because all rows are equally long and each token sees everything
        before it."""
        rows, width = tokens.shape
        inputs = {"logits_to_keep": 1} if self.architecture.trims_logits else {}
        if self.architecture.positions:
            positions = torch.arange(self.cache.length, self.cache.length + width, device=self.device)
            inputs["position_ids"] = positions.expand(rows, width)
        return self.model(input_ids=tokens, past_key_values=self.cache, use_cache=True, **inputs).logits


class SourceBeamRunner(CachedBeamRunner):
    """Runs an encoder-decoder model: the prompt is encoded once, and all beams read the same copy of its keys and values."""

    @property
    def kv_bytes(self) -> int:
        return super().kv_bytes + (self._source_cache.source_bytes if self._peak else 0)

    def _open(self, prompt: Sequence[int]) -> list[int]:
        source = self._known_ids(torch.tensor([list(prompt)], device=self.device))
        self._encoded = self.model.get_encoder()(input_ids=source).last_hidden_state  # [1, source tokens, d_model]
        self._source_cache = BeamSourceCache(self.cache)
        return [decoder_start(self.model)]

    def _pass(self, tokens: Tensor) -> Tensor:
        rows = tokens.shape[0]
        self._source_cache.show(rows)
        return self.model(
            encoder_outputs=(self._encoded.expand(rows, -1, -1),),
            decoder_input_ids=tokens,
            past_key_values=self._source_cache,
            use_cache=True,
        ).logits


class StatelessBeamRunner:
    """Runs the model without a cache (`cache=none`): every pass reads the whole text of every beam."""

    def __init__(self, model: torch.nn.Module, vocab_size: int | None = None):
        self.model = model
        self.device = model.device
        self.facts = Facts("none", self.device, trees=False, cache_exact=True)
        self.vocab_size = vocab_size
        self._known_ids = KnownIds(model, vocab_size)
        self.forwards = self._earlier = 0  # the passes since construction, and those before the last `start`
        self._texts = torch.empty(0, 0, dtype=torch.int64)

    def usage(self) -> Usage:
        return Usage(self.forwards - self._earlier)

    def start(self, prompt: Sequence[int], max_new_tokens: int, num_beams: int) -> Tensor:
        self._texts, self._earlier = torch.tensor([self._open(prompt)], device=self.device), self.forwards
        return self._forward()

    def logits(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        last = torch.tensor(tokens, device=self.device)[:, None]
        self._texts = torch.cat([self._texts[list(parents)], last], dim=1)
        return self._forward()

    def _open(self, prompt: Sequence[int]) -> list[int]:
        return list(prompt)

    def _forward(self) -> Tensor:
        self.forwards += 1
        return fit_vocabulary(self._pass(self._known_ids(self._texts))[:, -1], self.vocab_size)

    def _pass(self, texts: Tensor) -> Tensor:
        return self.model(input_ids=texts, use_cache=False).logits


class StatelessSourceBeamRunner(StatelessBeamRunner):
    """Runs an encoder-decoder model without a cache: the source is read again in every pass."""

    def _open(self, prompt: Sequence[int]) -> list[int]:
        self._source = self._known_ids(torch.tensor([list(prompt)], device=self.device))
        return [decoder_start(self.model)]

    def _pass(self, texts: Tensor) -> Tensor:
        source = self._source.expand(texts.shape[0], -1)
        return self.model(input_ids=source, decoder_input_ids=texts, use_cache=False).logits
