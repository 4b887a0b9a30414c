"""AdaEDL: stop drafting where the entropy of the drafter's law lets acceptance be unlikely (Agrawal et al. 2024, arXiv:2410.18351).

The expected acceptance of a token drawn from a law of entropy H is held to be at least 1 - sqrt(k H), k about 0.2. The threshold on it
follows the acceptance seen, by the update of Draft & Verify (Zhang et al. 2023, arXiv:2309.08168). The token drawn from that law stays in
the draft.
"""

from __future__ import annotations

from torch import Tensor

from specexp.decoding.policies.entropy import entropy, probabilities
from specexp.decoding.protocols import Policy

RATE_MEMORY, THRESHOLD_MEMORY = 0.5, 0.9  # weights of the past: beta_1 and beta_2 of Draft & Verify


class AdaEDL(Policy):
    """gamma_max: most tokens of a draft. entropy_factor: k. threshold: the first of a prompt; it then moves by steps of `step`,

    up while the average acceptance rate is below `target_rate`, down while it is above (not where the draft ran to gamma_max: a lower
    threshold could not have made it longer). step 0 keeps it.
    """

    def __init__(
        self,
        threshold: float = 0.4,
        gamma_max: int = 16,
        entropy_factor: float = 0.2,
        target_rate: float = 0.9,
        step: float = 0.01,
        temperature: float = 0.0,
    ):
        if gamma_max < 1:
            raise ValueError(f"gamma_max={gamma_max} drafts nothing; give 1 or more.")
        if entropy_factor <= 0 or step < 0:
            raise ValueError(f"AdaEDL needs entropy_factor > 0 and step >= 0, not entropy_factor={entropy_factor} and step={step}.")
        self.gamma_max, self.entropy_factor, self.temperature = gamma_max, entropy_factor, temperature
        self.initial, self.target_rate, self.step = threshold, target_rate, step
        self.start()

    def start(self) -> None:
        self.threshold, self._rate = self.initial, None

    def length(self) -> int:
        self.entropy = None
        return self.gamma_max

    def proceeds(self, drafted: int, logits: Tensor, token: Tensor) -> Tensor:
        nats = entropy(probabilities(logits, self.temperature))
        if drafted == 1:
            self.entropy = nats
        return self.bound(nats) >= self.threshold

    def bound(self, nats: Tensor) -> Tensor:
        """1 - sqrt(k H)."""
        return 1 - (self.entropy_factor * nats.clamp_min(0)).sqrt()

    def observe(self, drafted: int, accepted: int) -> None:
        if not drafted:
            return
        rate = accepted / drafted
        self._rate = rate if self._rate is None else RATE_MEMORY * self._rate + (1 - RATE_MEMORY) * rate
        if self._rate < self.target_rate:
            self._move(self.step)
        elif drafted < self.gamma_max:
            self._move(-self.step)

    def _move(self, step: float) -> None:
        self.threshold = max(0.0, min(self.threshold + (1 - THRESHOLD_MEMORY) * step, 1.0))
