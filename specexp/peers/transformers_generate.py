"""transformers' own `generate` on the shared weights, as a decoder: one token per pass, its loop, its cache, its sampling.

The peer runs undisturbed and in the caller's thread; its rounds are handed out when it is done, each with the time at which it really
emitted (`Step.emitted`). The text is that of our autoregressive decoding: greedy token for token in float32, under sampling by the same
law (tests/test_peers.py), but for ties: transformers keeps all ids that share the last place of top-k. What its passes took inside is not
known, so `target_seconds` is None.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import ClassVar

from specexp.decoding.beam import NothingDrafted
from specexp.decoding.chance import Chance
from specexp.decoding.decoder import Step
from specexp.decoding.protocols import Stop
from specexp.decoding.sampling import Sampling
from specexp.models.caches import held_bytes
from specexp.peers.emissions import Heard
from specexp.peers.request import Drafted, Request, rounds
from specexp.peers.shared_model import SharedModel


@dataclass(frozen=True)
class OwnCache:
    """kind: "dynamic" is copied to grow; "static" has its size from the start, and with it transformers compiles its passes where it can
    (on CUDA, not on CPU)."""

    kind: str = "dynamic"

    def __post_init__(self) -> None:
        if self.kind not in ("dynamic", "static"):
            raise ValueError(f"cache={self.kind} is none that transformers' generate is compared with; give dynamic or static.")


@dataclass
class TransformersGenerate:
    """method=hf_generate."""

    target: SharedModel
    sampling: Sampling
    cache: OwnCache = field(default_factory=OwnCache)
    lossless: ClassVar[bool] = True
    drafter: ClassVar[NothingDrafted] = NothingDrafted()

    def generate(self, prompt: Sequence[int], max_new_tokens: int, stop: Stop, chance: Chance) -> Iterator[Step]:
        """All rounds, one per token, once the last has been emitted."""
        request = Request(self.target, self.sampling, prompt, max_new_tokens, stop, chance)
        heard = request.emissions()
        output = request.run(request.settings(cache_implementation=self.cache.kind), stopping_criteria=[Heard(heard)])
        self.target.forwards += heard.passes
        self.target.kv_bytes = held_bytes(output.past_key_values, heard.opening + len(heard.ids) - 1)
        yield from rounds(heard, repeat(Drafted()))
