"""transformers' prompt lookup: candidates are what followed the last few tokens where they first stood before. No draft model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

from specexp.peers.shared_model import SharedModel


@dataclass(frozen=True)
class PromptLookup:
    """gamma: `prompt_lookup_num_tokens`, candidates per round at most. max_ngram: `max_matching_ngram_size`, longest suffix looked up."""

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
