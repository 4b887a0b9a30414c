"""transformers' `assistant_confidence_threshold`: stop drafting behind a token that the drafter itself held unlikely.

That token stays in the verified block, so the law of the text is untouched. As in transformers without scikit-learn the threshold is
constant; there the probability is read behind top-k and top-p, here before them (greedy: the same).
"""

from __future__ import annotations

from torch import Tensor

from specexp.decoding.policies.entropy import probabilities
from specexp.decoding.protocols import Policy


class ConfidenceThreshold(Policy):
    """At most gamma_max tokens (`num_assistant_tokens`), the last one being the first whose probability is below `threshold`."""

    def __init__(self, threshold: float = 0.4, gamma_max: int = 20, temperature: float = 0.0):
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold} is no probability; give one in [0, 1], 0 to draft gamma_max tokens always.")
        if gamma_max < 1:
            raise ValueError(f"gamma_max={gamma_max} drafts nothing; give 1 or more.")
        self.threshold, self.gamma_max, self.temperature = threshold, gamma_max, temperature

    def length(self) -> int:
        return self.gamma_max

    def proceeds(self, drafted: int, logits: Tensor, token: Tensor) -> Tensor:
        return probabilities(logits, self.temperature).gather(-1, token[None])[0] >= self.threshold
