"""What a cost model learns while decoding: how long a round of each draft length takes, and how often each position is accepted.

Running estimates that forget slowly and shrug off outliers. They know numbers only; no clock, no tokens.
"""

from __future__ import annotations

from collections import deque
from statistics import median_low

SAMPLES = 9  # of each length: few enough to follow a machine that changes, enough for a median
SURPRISE = 1.5  # a round counts as no more than this many times its expected seconds
PACE_GAIN, WELL_KNOWN = 0.3, 4  # share of a round's surprise that is put down to the machine, at lengths measured so often
TRUST = 4.0  # samples' worth of the straight line in a length's own estimate
FIRST_RATE, FIRST_WEIGHT = 0.7, 2.0  # hope: a draft nobody has tried is tried
CHAIN_WEIGHT = 20.0  # trials' worth of a position's predecessor in its own rate


class RoundTimes:
    """Seconds of a round by draft length 0..longest: medians, and a straight line through those above 0 to tell unseen lengths.

    Of two samples the median is the lower, since it is delays that are outliers. Lengths are compared though they were measured at
    different times, so all are in seconds of one machine: `pace` is how much slower it is now than when the first model was made.
    """

    def __init__(self, longest: int):
        self.samples: list[deque[float]] = [deque(maxlen=SAMPLES) for _ in range(longest + 1)]
        self.pace = 1.0
        self.latest: list[float] = []  # the last answer of `model`

    def observe(self, length: int, seconds: float) -> None:
        """One round. What took far longer than thought counts as somewhat longer: a delay is forgotten, a true jump seen again."""
        if self.latest:
            if self.count(length) >= WELL_KNOWN:
                surprise = seconds / (self.latest[length] * self.pace)
                self.pace *= max(1 / SURPRISE, min(surprise, SURPRISE)) ** PACE_GAIN
            seconds = min(seconds / self.pace, SURPRISE * self.latest[length])
        self.samples[length].append(seconds)

    def count(self, length: int) -> int:
        return len(self.samples[length])

    @property
    def autoregressive(self) -> float | None:
        """Of a round without a draft."""
        return median_low(self.samples[0]) if self.samples[0] else None

    def known(self) -> bool:
        """Whether a round without a draft and one with have been seen."""
        return bool(self.samples[0]) and any(self.samples[1:])

    def model(self) -> list[float]:
        """Seconds at every length, more for a longer draft than for a shorter one or none. Wants `known`."""
        base = median_low(self.samples[0])
        seen = [(length, median_low(s), len(s)) for length, s in enumerate(self.samples) if length and s]
        start, slope = _line(seen) if len(seen) > 1 else (base, max(seen[0][1] - base, 0.0) / seen[0][0])
        times = [max(start + slope * length, base) for length in range(1, len(self.samples))]
        for length, middle, count in seen:
            times[length - 1] = max((count * middle + TRUST * times[length - 1]) / (count + TRUST), base)
        self.latest = [base, *_rising(times, [len(s) + 1.0 for s in self.samples[1:]])]
        return self.latest


def _rising(values: list[float], weights: list[float]) -> list[float]:
    """The nearest non-decreasing sequence by weighted least squares: neighbours that fall are pooled to their mean."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, length
    for mean, weight in zip(values, weights, strict=True):
        length = 1
        while pools and pools[-1][0] > mean:
            before, heft, count = pools.pop()
            mean, weight, length = (before * heft + mean * weight) / (heft + weight), heft + weight, length + count
        pools.append((mean, weight, length))
    return [mean for mean, _, length in pools for _ in range(length)]


def _line(points: list[tuple[int, float, int]]) -> tuple[float, float]:
    """(value at 0, slope >= 0) of the weighted least squares through (x, y, weight) at two x or more."""
    weight = sum(w for *_, w in points)
    x_mean, y_mean = sum(x * w for x, _, w in points) / weight, sum(y * w for _, y, w in points) / weight
    spread = sum(w * (x - x_mean) ** 2 for x, _, w in points)
    slope = max(sum(w * (x - x_mean) * (y - y_mean) for x, y, w in points) / spread, 0.0)
    return y_mean - slope * x_mean, slope


class AcceptanceRates:
    """P(position k accepted | all before it were), k = 1..longest, from rounds whose weight shrinks by `memory` with each round after."""

    def __init__(self, longest: int, memory: float = 0.99):
        self.memory = memory
        self._kept, self._tried = [0.0] * longest, [0.0] * longest
        self._weight = 1.0  # of the next round; growing it is cheaper than shrinking all counts

    def observe(self, drafted: int, accepted: int) -> None:
        """A position is tried if all before it were accepted."""
        for k in range(min(drafted, accepted + 1, len(self._tried))):
            self._tried[k] += self._weight
            self._kept[k] += self._weight * (k < accepted)
        self._weight /= self.memory
        if self._weight > 1e6:
            self._scale(1 / self._weight)

    def forget(self, rounds: float) -> None:
        """Keep of the past no more than `rounds` rounds would weigh, for fresh evidence to tell."""
        if self._tried[0] > rounds * self._weight:
            self._scale(rounds / self._tried[0])
            self._weight = 1.0

    def rates(self) -> list[float]:
        """Each position leans on the one before it, the first on a hopeful guess."""
        rates, before, weight = [], FIRST_RATE, FIRST_WEIGHT
        for kept, tried in zip(self._kept, self._tried, strict=True):
            before = (kept / self._weight + weight * before) / (tried / self._weight + weight)
            rates.append(before)
            weight = CHAIN_WEIGHT
        return rates

    def _scale(self, factor: float) -> None:
        self._kept, self._tried = [k * factor for k in self._kept], [t * factor for t in self._tried]
        self._weight *= factor
