"""A transformers model over all beams of a search: the prompt read once, then one token per beam and pass.

Knows models and caches; nothing of scores, rules or text. The cached form is a memo of the stateless one, which is kept as its oracle.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specexp.decoding.beam import BeamRunner
from specexp.errors import UserError
from specexp.models.architecture import Architecture
from specexp.models.caches import BeamCache, FullCache
from specexp.models.runner import KnownIds, ModelRunner, StatelessRunner, fit_vocabulary


def beam_runner(runner: ModelRunner | StatelessRunner) -> BeamRunner:
    """The same model with the same kind of cache, over beams. UserError for a cache that holds one text only."""
    if isinstance(runner, StatelessRunner):
        return StatelessBeamRunner(runner.model, runner.vocab_size)
    if type(runner.cache) is not FullCache:
        raise UserError(f"{type(runner.cache).__name__} holds one text, and beam search needs one per beam: choose cache=full or cache=none.")
    return CachedBeamRunner(runner.model, runner.vocab_size)


class CachedBeamRunner:
    """model: a causal LM in eval mode. One pass per token over [beams, 1] ids."""

    cache_exact = True

    def __init__(self, model: torch.nn.Module, vocab_size: int | None = None):
        self.model = model
        self.device = model.device
        self.architecture = Architecture.of(model)
        self.vocab_size = vocab_size
        self._known_ids = KnownIds(model, vocab_size)
        self.cache = BeamCache()
        self.forwards = 0
        self._peak = 0

    @property
    def kv_bytes(self) -> int:
        return self._peak * self.cache.bytes_per_slot

    def start(self, prompt: Sequence[int], max_new_tokens: int, num_beams: int) -> Tensor:
        self.cache.reserve(len(prompt) + max_new_tokens, num_beams)
        self._peak = 0
        logits = self._forward(torch.tensor([list(prompt)], device=self.device))
        self.cache.spread()
        self._peak = num_beams * len(prompt)
        return logits

    def logits(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        self.cache.reorder(parents)
        return self._forward(torch.tensor(tokens, device=self.device)[:, None])

    def _forward(self, tokens: Tensor) -> Tensor:
        """[rows, n] tokens into the slots from `cache.length` on -> [rows, V]. No mask: rows are equally long, so one row sees all."""
        rows, width = tokens.shape
        inputs = {"logits_to_keep": 1} if self.architecture.trims_logits else {}
        if self.architecture.positions:
            positions = torch.arange(self.cache.length, self.cache.length + width, device=self.device)
            inputs["position_ids"] = positions.expand(rows, width)
        output = self.model(input_ids=self._known_ids(tokens), past_key_values=self.cache, use_cache=True, **inputs)
        self.cache.length += width
        self._peak = max(self._peak, rows * self.cache.length)
        self.forwards += 1
        return fit_vocabulary(output.logits[:, -1], self.vocab_size)


class StatelessBeamRunner:
    """The same without any memory: every beam's whole text in each pass (`cache=none`)."""

    cache_exact = True
    kv_bytes = 0

    def __init__(self, model: torch.nn.Module, vocab_size: int | None = None):
        self.model = model
        self.device = model.device
        self.vocab_size = vocab_size
        self._known_ids = KnownIds(model, vocab_size)
        self.forwards = 0
        self._texts = torch.empty(0, 0, dtype=torch.int64)

    def start(self, prompt: Sequence[int], max_new_tokens: int, num_beams: int) -> Tensor:
        self._texts = torch.tensor([list(prompt)], device=self.device)
        return self._forward()

    def logits(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        last = torch.tensor(tokens, device=self.device)[:, None]
        self._texts = torch.cat([self._texts[list(parents)], last], dim=1)
        return self._forward()

    def _forward(self) -> Tensor:
        self.forwards += 1
        output = self.model(input_ids=self._known_ids(self._texts), use_cache=False)
        return fit_vocabulary(output.logits[:, -1], self.vocab_size)
