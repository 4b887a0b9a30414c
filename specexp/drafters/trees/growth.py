"""Where a token tree grows: which nodes get children, and how many, from the draft's probabilities and from earlier rounds.

Such a shape depends on the tokens in it, so these trees consist of the draft's best tokens, never of drawn ones.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol


class Growth(Protocol):
    """width, depth: no node gets more children, no path gets longer."""

    width: int
    depth: int

    def start(self) -> None:
        """A new prompt begins."""

    def children(self, confidence: float) -> int:
        """How many children a node gets behind which the draft's best token has this probability."""
        return self.width

    def expands(self, p: float, depth: int) -> bool:
        """Whether a node `depth` levels below the root, whose path has probability p, gets children (the root always does)."""
        return depth < self.depth

    def observe(self, depth: int, accepted: int) -> None:
        """What became of a round's tree of that depth."""


class BestFirst(Growth):
    """Wherever the path's probability is among the best that the budget of nodes allows (as EAGLE-2, arXiv:2406.16858, ranks its nodes)."""

    def __init__(self, branching: int = 4, depth: int = 8):
        _check(branching=branching, depth=depth)
        self.width, self.depth = branching, depth


class Threshold(Growth):
    """Wherever the path's probability is at least `threshold`; other nodes are verified, but get no children (DynaTree's second tree)."""

    def __init__(self, branching: int = 2, depth: int = 5, threshold: float = 0.03):
        _check(branching=branching, depth=depth)
        _check_probabilities(threshold=threshold)
        self.width, self.depth, self.threshold = branching, depth, threshold

    def expands(self, p: float, depth: int) -> bool:
        return depth < self.depth and p >= self.threshold


class Adaptive(Growth):
    """DynaTree's three rules.

    Branching by confidence: min_branching children where the draft's best token has more than `high`, max_branching where it has less
    than `low`, mid_branching between. Depth by the path's probability: no children below `stop` or `threshold`, beyond base_depth only
    above `deep`, never beyond max_depth. History: base_depth and `high` follow the share of the tree's depth that was accepted in the last
    `window` rounds of this prompt, base_depth += depth_rate * (share - target) and high -= high_rate * (share - target).
    """

    LEAST_ROUNDS, LEAST_DEPTH, HIGH_RANGE = 5, 2, (0.5, 0.95)

    def __init__(
        self,
        high: float = 0.9,
        low: float = 0.4,
        min_branching: int = 1,
        mid_branching: int = 2,
        max_branching: int = 3,
        base_depth: int = 5,
        max_depth: int = 8,
        stop: float = 0.1,
        deep: float = 0.5,
        threshold: float = 0.05,
        target: float = 0.7,
        depth_rate: float = 1.0,
        high_rate: float = 0.05,
        window: int = 10,
    ):
        _check(min_branching=min_branching, base_depth=base_depth, window=window)
        _check_probabilities(high=high, low=low, stop=stop, deep=deep, threshold=threshold, target=target)
        if not min_branching <= mid_branching <= max_branching:
            raise ValueError(f"min_branching={min_branching}, mid_branching={mid_branching}, max_branching={max_branching} do not ascend.")
        if low > high or base_depth > max_depth:
            raise ValueError(f"low={low} and base_depth={base_depth} must not exceed high={high} and max_depth={max_depth}.")
        self.low, self.stop, self.deep, self.threshold, self.target = low, stop, deep, threshold, target
        self.min_branching, self.mid_branching, self.width = min_branching, mid_branching, max_branching
        self.depth, self.depth_rate, self.high_rate = max_depth, depth_rate, high_rate
        self._begin, self._shares = (float(base_depth), high), deque(maxlen=window)
        self.start()

    def start(self) -> None:
        self.base_depth, self.high = self._begin
        self._shares.clear()

    def children(self, confidence: float) -> int:
        return self.min_branching if confidence > self.high else self.width if confidence < self.low else self.mid_branching

    def expands(self, p: float, depth: int) -> bool:
        if depth >= self.depth or p < max(self.stop, self.threshold):
            return False
        return depth < round(self.base_depth) or p > self.deep

    def observe(self, depth: int, accepted: int) -> None:
        self._shares.append(accepted / depth)
        if len(self._shares) < min(self.LEAST_ROUNDS, self._shares.maxlen):
            return
        error = sum(self._shares) / len(self._shares) - self.target
        self.base_depth = _clipped(self.base_depth + self.depth_rate * error, self.LEAST_DEPTH, self.depth)
        self.high = _clipped(self.high - self.high_rate * error, max(self.low, self.HIGH_RANGE[0]), self.HIGH_RANGE[1])


def _clipped(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _check(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count} makes no tree; give 1 or more.")


def _check_probabilities(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value} is no probability; give one in [0, 1].")
