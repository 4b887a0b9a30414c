"""transformers' own `generate` on the shared weights, as a decoder: one token per pass, with its own loop, cache and sampling. Its prompt
lookup, a source of candidates for assisted.py, stands here too.

The loop runs without interruption in the caller's thread. Its rounds are given to the experiment when it is done, each with the time at
which it was really emitted (`Round.emitted`). The text is that of our autoregressive decoding: token for token when greedy in float32, and
under sampling with the same distribution (tests/peers/test_peers.py), but for ties: transformers keeps all ids that share the last place
of top-k. How long its passes took is not known, so `target_seconds` is None.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import repeat
from typing import ClassVar

from specexp.decoding.decoder import Round
from specexp.decoding.protocols import Drafter, Stop
from specexp.decoding.sampling import Draws
from specexp.peers import PeerLoop
from specexp.peers.request import Drafted, Heard, Request, SharedModel, rounds
from specexp.runners.caches import held_bytes


@dataclass(frozen=True)
class OwnCache:
    """The cache that `generate` uses. kind: "dynamic" is copied to grow; "static" has its full size from the start, and with it
    transformers compiles its passes where it can (on CUDA, not on CPU).
    """

    kind: str = "dynamic"

    def __post_init__(self) -> None:
        if self.kind not in ("dynamic", "static"):
            raise ValueError(f"cache={self.kind} is no cache that is compared with transformers' generate; give dynamic or static.")


@dataclass
class TransformersGenerate(PeerLoop):
    """The decoder of method=hf_generate."""

    target: SharedModel
    cache: OwnCache = field(default_factory=OwnCache)
    drafter: ClassVar[Drafter] = Drafter()

    def generate(self, prompt: Sequence[int], max_new_tokens: int, stop: Stop, draws: Draws) -> Iterator[Round]:
        """Gives all rounds, one per token, after the last has been emitted."""
        request = Request(self.target, prompt, max_new_tokens, stop, draws)
        heard = request.emissions()
        output = request.run(request.settings(cache_implementation=self.cache.kind), stopping_criteria=[Heard(heard)])
        self.target.start()
        self.target.forwards = heard.passes
        self.target.kv_bytes = held_bytes(output.past_key_values, heard.opening + len(heard.ids) - 1)
        yield from rounds(heard, repeat(Drafted()))


@dataclass(frozen=True)
class PromptLookup:
    """Candidates are the tokens that followed the text's last few tokens where these first occurred; there is no draft model.

    gamma: `prompt_lookup_num_tokens`, how many candidates per round at most. max_ngram: `max_matching_ngram_size`, how many last tokens
    are looked up at most.
    """

    gamma: int = 10
    max_ngram: int = 2
    models: ClassVar[Mapping[str, SharedModel]] = {}

    def __post_init__(self) -> None:
        if self.gamma < 1:
            raise ValueError(f"gamma={self.gamma} copies nothing; give 1 or more, or choose method=hf_generate.")
        if self.max_ngram < 1:
            raise ValueError(f"max_ngram={self.max_ngram} looks up nothing; give 1 or more.")

    def settings(self) -> dict[str, object]:
        return {"prompt_lookup_num_tokens": self.gamma, "max_matching_ngram_size": self.max_ngram}

    def defaults(self) -> dict[str, object]:
        return {}

    def arguments(self) -> dict[str, object]:
        return {}

    def lent(self, ends: Sequence[int]) -> AbstractContextManager:
        return nullcontext()
