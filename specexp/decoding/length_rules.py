"""The rules that say how many tokens a draft has.

- `FixedLength` drafts the same number of tokens every round.
- `HeuristicLength` is transformers' `num_assistant_tokens_schedule`, the rule of `AssistedCandidateGenerator.update_candidate_strategy`
  (transformers 5): two more tokens after a draft that was accepted whole, else one less.
- `ConfidenceThreshold` is transformers' `assistant_confidence_threshold`: the draft ends after a token that the drafter thought unlikely.
- `AdaEDL` (Agrawal et al. 2024, arXiv:2410.18351) ends the draft where the entropy of the drafter's distribution says that acceptance is
  unlikely. Its threshold moves by the update of Draft & Verify (Zhang et al. 2023, arXiv:2309.08168).
- `EGAG` (entropy-guided adaptive gamma) is the rule of a fork of romsto/Speculative-Decoding, unchanged: the lower the entropy of the
  drafter's first distribution, the longer the draft. `CalibratedEGAG` spreads the same entropies over the whole range of lengths.
- `CostModel`, which measures times, has a file of its own (cost_model.py).

The rules that read a probability or an entropy decide only after the token was drawn from those logits, and that token stays in the draft.
So they cost no pass and leave the distribution of the text unchanged; but they need a drafter that is a model. The other rules work for
every drafter. Entropies are in nats.
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
    """Drafts gamma tokens every round (Leviathan et al. 2023, Algorithm 1). With gamma 0 decoding is autoregressive."""

    gamma: int

    def __post_init__(self) -> None:
        if self.gamma < 0:
            raise ValueError(f"gamma={self.gamma} is negative; give the number of tokens to draft per round, 0 for none.")

    def length(self) -> int:
        return self.gamma


class HeuristicLength(LengthRule):
    """transformers' schedule "heuristic": gamma grows by 2 after a draft that was accepted whole and else falls by 1, never below 1 and
    without an upper bound. For example, from 5: accepted whole, 7; not, 6; not, 5. A new prompt goes on with the last prompt's gamma.
    Rounds that drafted nothing (the prefill, the last token) leave it as it is.
    """

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
    """transformers' schedule "heuristic_transient": the same, but every prompt begins with the first length again."""

    def start(self) -> None:
        self.gamma = self.initial


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Return softmax(logits / T) in float32 or better, before any top-k or nucleus. At temperature 0, T is taken to be 1."""
    logits = logits if logits.is_floating_point() and logits.itemsize > 4 else logits.float()
    return (logits / temperature if temperature > 0 else logits).softmax(-1)


def entropy(probability: Tensor) -> Tensor:
    """Return the entropy in nats, [..., V] -> [...]: -sum p log(p + 1e-8). This is the form that the implementations of EGAG's fork and of
    AdaEDL use; its error is at most 1e-8 V, and ids with p = 0 add 0."""
    return -(probability * (probability + 1e-8).log()).sum(-1)


class ConfidenceThreshold(LengthRule):
    """Drafts at most gamma_max tokens (transformers' `num_assistant_tokens`) and ends the draft with the first token whose probability is
    below `threshold`.

    The threshold is constant, as it is in transformers without scikit-learn. transformers reads the probability after top-k and top-p, this
    rule before them; in greedy decoding the two are the same.
    """

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
    """Ends a draft after the first token whose distribution has 1 - sqrt(k H) < threshold.

    The paper takes 1 - sqrt(k H), with k about 0.2, as a lower bound on the expected acceptance of a token drawn from a distribution of
    entropy H. For example, H = 1 nat gives 1 - sqrt(0.2) = 0.55, and H = 2 gives 0.37.

    gamma_max: the most tokens of a draft. entropy_factor: k. threshold: its value at the beginning of each prompt. After every round it
    moves by `step` / 10: up while the average acceptance rate is below `target_rate`, down while it is not. It does not move down after a
    draft of gamma_max tokens, because a lower threshold could not have made that one longer. With step 0 it stays.
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
        """Return 1 - sqrt(k H)."""
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

    H is the entropy of the drafter's first distribution, softmax(logits / T) before top-k and top-p; at temperature 0, T is taken to be 1.
    The average starts anew with every prompt. The published formula hardly changes its answer: with |V| = 128k and gamma_max 6 every H
    below 1.96 nats gives 5, and 6 needs H = 0. That is why there is CalibratedEGAG.
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
    """Maps the rank of H among the last `window` entropies, over all prompts, to the range of lengths. So each length comes up equally
    often: with gamma_min 1 and gamma_max 8 the eighth of the rounds that has the lowest entropies gets 8 tokens, and the eighth that has
    the highest gets 1.

    Equal entropies share the rank in their middle. The very first entropy gives the middle of the range.
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
        share = (above + (equal + 1) / 2) / (known + 1)  # in (0, 1): the share of entropies above this one; its equals count by half
        return self._clipped(self.gamma_min + int(share * (self.gamma_max - self.gamma_min + 1)))

    def _remember(self, nats: float) -> None:
        if len(self._recent) == self._recent.maxlen:
            del self._ordered[bisect_left(self._ordered, self._recent[0])]
        self._recent.append(nats)
        insort(self._ordered, nats)
