"""A draft model for transformers' assisted generation, with its knobs where they are read: on the draft model's own generation settings.

Given to the target's `generate` they would be ignored without a word. The draft model gets settings made for it, and its own back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from transformers import GenerationConfig

from specexp.peers.request import special_ids
from specexp.peers.shared_model import SharedModel

SCHEDULES = ("constant", "heuristic", "heuristic_transient")


@dataclass(frozen=True)
class AssistantKnobs:
    """gamma: `num_assistant_tokens`, drafted per round, or at first. schedule: `num_assistant_tokens_schedule`; with "heuristic" the next
    request begins with the length that the last one ended with, as with transformers itself.
    confidence_threshold: `assistant_confidence_threshold`, the probability below which a token is the last one drafted; 0: none is.
    Where scikit-learn is installed, transformers adapts it during a request.
    """

    gamma: int = 20
    schedule: str = "constant"
    confidence_threshold: float = 0.4

    def __post_init__(self) -> None:
        if self.gamma < 1:
            raise ValueError(f"gamma={self.gamma} drafts nothing; give 1 or more, or choose method=hf_generate.")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule={self.schedule} is unknown to transformers; give one of {', '.join(SCHEDULES)}.")
        if not 0 <= self.confidence_threshold < 1:
            raise ValueError(f"confidence_threshold={self.confidence_threshold} is no probability below 1; give 0 for none.")

    def settings(self) -> dict[str, object]:
        """By transformers' names."""
        return {
            "num_assistant_tokens": self.gamma,
            "num_assistant_tokens_schedule": self.schedule,
            "assistant_confidence_threshold": self.confidence_threshold,
        }


@dataclass
class Assistant:
    """model: drafts, several tokens per round, with a cache of its own."""

    model: SharedModel
    knobs: AssistantKnobs = field(default_factory=AssistantKnobs)
    _gamma: int | None = field(default=None, init=False, repr=False)  # where the last request left it

    @property
    def models(self) -> dict[str, SharedModel]:
        return {"draft": self.model}

    def settings(self) -> dict[str, object]:
        return {}

    def defaults(self) -> dict[str, object]:
        return {}

    def arguments(self) -> dict[str, object]:
        return {"assistant_model": self.model.model}

    @contextmanager
    def lent(self, ends: Sequence[int]) -> Iterator[None]:
        settings = GenerationConfig(**special_ids(self.model.model, ends), **self.knobs.settings())
        settings.num_assistant_tokens = self._gamma or self.knobs.gamma
        with self.model.lent(generation_config=settings):
            yield
        self._gamma = settings.num_assistant_tokens  # "heuristic" writes it there
