"""Entropy-guided adaptive gamma: one look at the drafter's first logits says how far it may go. Low entropy, long draft.

EGAG is the rule of the fork of romsto/Speculative-Decoding, unchanged; its published map hardly moves (with |V| = 128k and gamma_max 6
every H below 1.96 nats gives 5, and 6 needs H = 0), so CalibratedEGAG spreads the same signal over the whole range. The look costs no pass:
it is taken after the first token is drawn from those logits, and that token stays in the draft.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from math import log

from torch import Tensor

from specexp.decoding.policies.entropy import entropy, probabilities
from specexp.decoding.protocols import Policy


class EGAG(Policy):
    """gamma = int((1 - H / log|V|) gamma_max), clipped to [gamma_min, gamma_max], then averaged: ema * old + (1 - ema) * new, rounded.

    H is of softmax(logits / T) before top-k and top-p; temperature 0 reads the raw law. The average starts anew with every prompt.
    """

    def __init__(self, gamma_min: int = 1, gamma_max: int = 6, ema: float = 0.9, temperature: float = 0.0):
        if not 1 <= gamma_min <= gamma_max:
            raise ValueError(f"EGAG needs 1 <= gamma_min <= gamma_max, not gamma_min={gamma_min} and gamma_max={gamma_max}.")
        if not 0 <= ema < 1:
            raise ValueError(f"ema={ema} is not in [0, 1); give the weight of the lengths so far, 0 for none.")
        self.gamma_min, self.gamma_max, self.ema, self.temperature = gamma_min, gamma_max, ema, temperature
        self.gamma = gamma_max
        self._average: float | None = None

    def start(self) -> None:
        self._average = None

    def length(self) -> int:
        self.entropy = None
        return self.gamma_max

    def proceeds(self, drafted: int, logits: Tensor, token: Tensor) -> bool:
        if drafted == 1:
            self.entropy = float(entropy(probabilities(logits, self.temperature)))
            self.gamma = self._averaged(self.mapped(self.entropy, logits.shape[-1]))
        return drafted < self.gamma

    def mapped(self, nats: float, vocabulary: int) -> int:
        """The length that an entropy of `nats` asks for, before averaging."""
        return self._clipped(int((1 - nats / log(vocabulary)) * self.gamma_max))

    def _clipped(self, gamma: int) -> int:
        return max(self.gamma_min, min(gamma, self.gamma_max))

    def _averaged(self, gamma: int) -> int:
        if self.ema == 0:
            return gamma
        self._average = gamma if self._average is None else self.ema * self._average + (1 - self.ema) * gamma
        return round(self._average)


class CalibratedEGAG(EGAG):
    """The rank of H among the last `window` entropies, over all prompts, mapped to the range: each length is asked for equally often.

    Equal entropies share their middle rank; the very first asks for the middle of the range.
    """

    def __init__(self, gamma_min: int = 1, gamma_max: int = 8, ema: float = 0.0, temperature: float = 0.0, window: int = 256):
        super().__init__(gamma_min, gamma_max, ema, temperature)
        if window < 1:
            raise ValueError(f"window={window} remembers no entropy; give 1 or more.")
        self._recent: deque[float] = deque(maxlen=window)
        self._ordered: list[float] = []

    def mapped(self, nats: float, vocabulary: int) -> int:
        known = len(self._ordered)
        above = known - bisect_right(self._ordered, nats)
        equal = known - above - bisect_left(self._ordered, nats)
        self._remember(nats)
        share = (above + (equal + 1) / 2) / (known + 1)  # in (0, 1): the share of entropies above this one, itself the middle of its equals
        return self._clipped(self.gamma_min + int(share * (self.gamma_max - self.gamma_min + 1)))

    def _remember(self, nats: float) -> None:
        if len(self._recent) == self._recent.maxlen:
            del self._ordered[bisect_left(self._ordered, self._recent[0])]
        self._recent.append(nats)
        insort(self._ordered, nats)
