"""The same draft length every round. Looks at nothing, learns nothing.

transformers' `num_assistant_tokens_schedule`: longer by 2 after a draft that was accepted whole, else shorter by 1.

The rule of `AssistedCandidateGenerator.update_candidate_strategy` (transformers 5): no upper bound, never below 1. Rounds that drafted
nothing (the prefill, the last token) teach nothing.

H of a drafter's law, in nats: what entropy-guided policies read. Pure functions of [..., V] logits, on their device, without a sync.

transformers' `assistant_confidence_threshold`: stop drafting behind a token that the drafter itself held unlikely.

That token stays in the verified block, so the law of the text is untouched. As in transformers without scikit-learn the threshold is
constant; there the probability is read behind top-k and top-p, here before them (greedy: the same).

AdaEDL: stop drafting where the entropy of the drafter's law lets acceptance be unlikely (Agrawal et al. 2024, arXiv:2410.18351).

The expected acceptance of a token drawn from a law of entropy H is held to be at least 1 - sqrt(k H), k about 0.2. The threshold on it
follows the acceptance seen, by the update of Draft & Verify (Zhang et al. 2023, arXiv:2309.08168). The token drawn from that law stays in
the draft.

Entropy-guided adaptive gamma: one look at the drafter's first logits says how far it may go. Low entropy, long draft.

EGAG is the rule of the fork of romsto/Speculative-Decoding, unchanged; its published map hardly moves (with |V| = 128k and gamma_max 6
every H below 1.96 nats gives 5, and 6 needs H = 0), so CalibratedEGAG spreads the same signal over the whole range. The look costs no pass:
it is taken after the first token is drawn from those logits, and that token stays in the draft.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from dataclasses import dataclass
from math import log

from torch import Tensor

from specexp.decoding.protocols import LengthRule
from specexp.decoding.sampling import Draws


@dataclass(frozen=True)
class FixedLength(LengthRule):
    """gamma tokens every round (Leviathan et al. 2023, Algorithm 1). gamma 0 is autoregressive decoding."""

    gamma: int

    def __post_init__(self) -> None:
        if self.gamma < 0:
            raise ValueError(f"gamma={self.gamma} is negative; give the number of tokens to draft per round, 0 for none.")

    def length(self) -> int:
        return self.gamma


class HeuristicLength(LengthRule):
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


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    """softmax(logits / T) in float32 or better, before any top-k or nucleus; temperature 0 reads the raw law (T = 1)."""
    logits = logits if logits.is_floating_point() and logits.itemsize > 4 else logits.float()
    return (logits / temperature if temperature > 0 else logits).softmax(-1)


def entropy(probability: Tensor) -> Tensor:
    """[..., V] -> [...]: -sum p log(p + 1e-8), the form of S3 and AdaEDL's implementations (exact to 1e-8 V, ids of p = 0 count 0)."""
    return -(probability * (probability + 1e-8).log()).sum(-1)


class ConfidenceThreshold(LengthRule):
    """At most gamma_max tokens (`num_assistant_tokens`), the last one being the first whose probability is below `threshold`."""

    def __init__(self, threshold: float = 0.4, gamma_max: int = 20):
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold} is no probability; give one in [0, 1], 0 to draft gamma_max tokens always.")
        if gamma_max < 1:
            raise ValueError(f"gamma_max={gamma_max} drafts nothing; give 1 or more.")
        self.threshold, self.gamma_max = threshold, gamma_max

    def length(self) -> int:
        return self.gamma_max

    def proceeds(self, drafted: int, logits: Tensor, token: Tensor, draws: Draws) -> Tensor:
        return probabilities(logits, draws.sampling.temperature).gather(-1, token[None])[0] >= self.threshold


RATE_MEMORY, THRESHOLD_MEMORY = 0.5, 0.9  # weights of the past: beta_1 and beta_2 of Draft & Verify


class AdaEDL(LengthRule):
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
    ):
        if gamma_max < 1:
            raise ValueError(f"gamma_max={gamma_max} drafts nothing; give 1 or more.")
        if entropy_factor <= 0 or step < 0:
            raise ValueError(f"AdaEDL needs entropy_factor > 0 and step >= 0, not entropy_factor={entropy_factor} and step={step}.")
        self.gamma_max, self.entropy_factor = gamma_max, entropy_factor
        self.initial, self.target_rate, self.step = threshold, target_rate, step
        self.start()

    def start(self) -> None:
        self.threshold, self._rate = self.initial, None

    def length(self) -> int:
        self.entropy = None
        return self.gamma_max

    def proceeds(self, drafted: int, logits: Tensor, token: Tensor, draws: Draws) -> Tensor:
        nats = entropy(probabilities(logits, draws.sampling.temperature))
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


class EGAG(LengthRule):
    """gamma = int((1 - H / log|V|) gamma_max), clipped to [gamma_min, gamma_max], then averaged: ema * old + (1 - ema) * new, rounded.

    H is of softmax(logits / T) before top-k and top-p; temperature 0 reads the raw law. The average starts anew with every prompt.
    """

    def __init__(self, gamma_min: int = 1, gamma_max: int = 6, ema: float = 0.9):
        if not 1 <= gamma_min <= gamma_max:
            raise ValueError(f"EGAG needs 1 <= gamma_min <= gamma_max, not gamma_min={gamma_min} and gamma_max={gamma_max}.")
        if not 0 <= ema < 1:
            raise ValueError(f"ema={ema} is not in [0, 1); give the weight of the lengths so far, 0 for none.")
        self.gamma_min, self.gamma_max, self.ema = gamma_min, gamma_max, ema
        self.gamma = gamma_max
        self._average: float | None = None

    def start(self) -> None:
        self._average = None

    def length(self) -> int:
        self.entropy = None
        return self.gamma_max

    def proceeds(self, drafted: int, logits: Tensor, token: Tensor, draws: Draws) -> bool:
        if drafted == 1:
            self.entropy = float(entropy(probabilities(logits, draws.sampling.temperature)))
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

    def __init__(self, gamma_min: int = 1, gamma_max: int = 8, ema: float = 0.0, window: int = 256):
        super().__init__(gamma_min, gamma_max, ema)
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
