"""transformers' `num_assistant_tokens_schedule`: longer by 2 after a draft that was accepted whole, else shorter by 1.

The rule of `AssistedCandidateGenerator.update_candidate_strategy` (transformers 5): no upper bound, never below 1. Rounds that drafted
nothing (the prefill, the last token) teach nothing.
"""

from __future__ import annotations

from specexp.decoding.protocols import Policy


class HeuristicLength(Policy):
    """schedule "heuristic": gamma is where the last prompt left it."""

    def __init__(self, gamma: int = 20):
        if gamma < 1:
            raise ValueError(f"gamma={gamma} drafts nothing, so nothing could ever be learnt; give the first length, 1 or more.")
        self.initial = self.gamma = gamma

    def length(self) -> int:
        return self.gamma

    def observe(self, drafted: int, accepted: int) -> None:
        if drafted:
            self.gamma = self.gamma + 2 if accepted == drafted else max(1, self.gamma - 1)


class TransientHeuristicLength(HeuristicLength):
    """schedule "heuristic_transient": every prompt begins with the first length again."""

    def start(self) -> None:
        self.gamma = self.initial
