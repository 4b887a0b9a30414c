"""The draft length that gives most tokens per second, from what rounds took and how they ended so far; 0 where drafting does not pay.

The throughput of a length is its expected tokens over the seconds of a round (theory.py). Seconds are read off the clock from the moment
at which the length is asked for to the moment at which the round's verdict is known. The verifier has fetched it by then, so the times are
true on every device without a synchronisation of our own; and what a console or a server does between two rounds is in none of them.
Estimates carry over between prompts and forget slowly. The first rounds of all measure. Later, little is spent on asking again: now and
then a round of another promising length, and, while drafting is off, a few drafts whenever the time that they may lose is within the
budget. An idle draft model is not even prefilled.

Lengths depend on the past and on the clock alone, which leaves the law of the text exact; but under sampling a seed does not give the same
text twice. The rule does not know how many tokens are still to come, so it cannot tell whether a draft's prefill will pay in a short text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import median_low
from time import perf_counter

from specexp.decoding.protocols import LengthRule
from specexp.decoding.theory import throughputs

FIRST_LENGTHS = (0, 0, 0, 4, 1, 4, 1, 4, 1)  # two lengths make a line; the first draft of all also pays its prefill and is not counted
PROBE_ROUNDS = 6
LONGEST_WAIT = 2048  # rounds off between probes
DECIDE_EVERY, EXPLORE_EVERY, BASE_EVERY = 8, 16, 16  # rounds
HOPE = 0.3  # by this share a length never measured may be better than it seems; n measurements leave a share of 1 / (n + 1) of it
NEAR = 0.95  # a probe takes the shortest draft that is this near the best: the cheapest mistake
PROMISING = 1.5  # a draft that brings so many tokens a round is off because of its cost, and costs may have been measured in a bad moment
MARGIN = 1.02  # less is no reason to draft
CLEAR_GAIN = 1.3  # above it nobody needs to know better what a round without a draft takes


class CostModel(LengthRule):
    """gamma_max: the longest draft considered. budget: share of all time that probes of a draft switched off may lose."""

    def __init__(self, gamma_max: int = 20, budget: float = 0.02, clock: Callable[[], float] = perf_counter):
        if gamma_max < 1:
            raise ValueError(f"gamma_max={gamma_max} leaves nothing to choose; give 1 or more.")
        if not 0 <= budget < 1:
            raise ValueError(f"budget={budget} is no share of the time; give one in [0, 1).")
        self.gamma_max, self.budget, self.clock = gamma_max, budget, clock
        self.times, self.rates = RoundTimes(gamma_max), AcceptanceRates(gamma_max)
        self.gamma = 0  # the best length as last decided
        self._clear = False  # whether it is best by far
        self._script = [min(length, gamma_max) for length in FIRST_LENGTHS]  # lengths to try before anything is decided
        self._speeds = [0.0] * (gamma_max + 1)  # tokens per second by length, as last estimated
        self._rounds = 0  # since drafting went off, or on
        self._wait = PROBE_ROUNDS  # rounds off until the next probe
        self._elapsed = self._lost = self._prefill = 0.0  # seconds (at the first pace): of all rounds, by probing, of a draft's catching up
        self.start()

    def start(self) -> None:
        self._began: float | None = None  # when this round did, if it asked for a length
        self._warm = False  # whether that round drafted, so that the next draft has nothing to catch up with

    def length(self) -> int:
        self._began = self.clock()
        if self._script:
            return self._script[0]
        if self.gamma == 0:
            return 0
        if self._rounds % BASE_EVERY == BASE_EVERY // 2 and not self._clear:
            return 0
        return self._rival() if self._rounds % EXPLORE_EVERY == EXPLORE_EVERY - 1 else self.gamma

    def _rival(self) -> int:
        """The length beside the best that could best be better: a straight line does not know where costs jump."""
        others = [length for length in range(1, self.gamma_max + 1) if length != self.gamma]
        return max(others, key=lambda length: self._speeds[length] * (1 + HOPE / (1 + self.times.count(length))), default=self.gamma)

    def observe(self, drafted: int, accepted: int) -> None:
        now, began = self.clock(), self._began
        self._began = None
        if began is None:
            return
        self._measure(max(now - began, 1e-9), min(drafted, self.gamma_max), accepted)
        self._warm = drafted > 0
        self._rounds += 1
        if self._script:
            self._follow(now - began, accepted)
        elif self.gamma == 0:
            self._consider_probe()
        elif self._rounds % DECIDE_EVERY == 0:
            self._decide()

    def _measure(self, seconds: float, drafted: int, accepted: int) -> None:
        self._elapsed += seconds / self.times.pace
        if drafted:
            self.rates.observe(drafted, accepted)
        if self._warm or not drafted:
            self.times.observe(drafted, seconds)
        elif self.times.latest:
            self._prefill += 0.5 * (max(seconds / self.times.pace - self.times.latest[drafted], 0.0) - self._prefill)

    def _follow(self, seconds: float, accepted: int) -> None:
        """One of the tried lengths is through: note what it lost against a round without a draft."""
        del self._script[0]
        if self.times.autoregressive is not None:
            self._lost += seconds / self.times.pace - (accepted + 1) * self.times.autoregressive
        if not self._script:
            self._lost = max(self._lost, 0.0)
            self._decide()

    def _decide(self) -> None:
        if not self.times.known():
            return  # the drafter had nothing to propose so far
        was, speeds = self.gamma, throughputs(self.rates.rates(), self.times.model())
        best = max(range(1, self.gamma_max + 1), key=speeds.__getitem__)
        self.gamma, self._speeds = best if speeds[best] > MARGIN * speeds[0] else 0, speeds
        self._clear = speeds[best] > CLEAR_GAIN * speeds[0]
        if self.gamma == 0:
            self._wait = min(2 * self._wait, LONGEST_WAIT) if was == 0 else 2 * PROBE_ROUNDS
        if self.gamma == 0 or was == 0:
            self._rounds = 0

    def _consider_probe(self) -> None:
        """Off for long enough, and able to afford being wrong: try the least bad length again, on fresh evidence."""
        if self._rounds < self._wait:
            return
        length, tokens, price = self.gamma_max, 1.0, 0.0  # of a drafter that had nothing to propose so far
        if times := self.times.latest:
            worth = NEAR * max(self._speeds[1:])
            length = next(length for length in range(1, self.gamma_max + 1) if self._speeds[length] >= worth)
            tokens = self._speeds[length] * times[length]
            price = self._prefill + PROBE_ROUNDS * (times[length] - times[0])
        if tokens > PROMISING or self._lost + price <= self.budget * self._elapsed:
            self.rates.forget(PROBE_ROUNDS)
            self._script = [length] * PROBE_ROUNDS


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
