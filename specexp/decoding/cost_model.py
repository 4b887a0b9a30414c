"""A length rule that measures time: it chooses the draft length with the most tokens per second, and 0 where drafting does not pay.

The throughput of a length is the expected number of tokens of a round divided by the seconds of that round (`theory.throughputs`). Both are
estimated from earlier rounds: `RoundTimes` holds the seconds by length, `AcceptanceRates` how often the token at each position was
accepted. The seconds of a round are counted from the moment at which its length is asked for to the moment at which its verdict is known.
The verifier has copied the verdict to the host by then, so the times are right on every device without a further synchronisation; and they
leave out what a console or a server does between two rounds.

- The first 9 rounds measure: their lengths are 0, 0, 0, 4, 1, 4, 1, 4, 1, whatever they bring.
- After that the best length is decided anew every 8 rounds. One round in 16 tries another promising length, and one in 16 drafts nothing,
  unless drafting is clearly better.
- If drafting does not pay it is switched off, and the draft model does not even read the text. It is tried again for 6 rounds after a
  while, if the time that this may lose is within the budget. The pause doubles each time that the trial fails, up to 2048 rounds.

The estimates are kept from prompt to prompt and forget slowly. Lengths depend on earlier rounds and on the clock alone, so the text keeps
its exact distribution; but under sampling a seed does not give the same text twice. The rule does not know how many tokens are still to
come, so it cannot tell whether a draft model's prefill will pay in a short text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import median_low
from time import perf_counter

from specexp.decoding.protocols import LengthRule
from specexp.decoding.theory import throughputs

FIRST_LENGTHS = (0, 0, 0, 4, 1, 4, 1, 4, 1)  # two lengths fix a line; the very first draft includes a prefill and its time is not used
PROBE_ROUNDS = 6  # rounds of a probe: a trial of drafting while it is switched off
LONGEST_WAIT = 2048  # the most rounds without a draft between two probes
DECIDE_EVERY, EXPLORE_EVERY, BASE_EVERY = 8, 16, 16  # rounds
HOPE = 0.3  # a length never measured may be this share better than it seems; after n measurements the share is 0.3 / (n + 1)
NEAR = 0.95  # a probe takes the shortest draft that is at least this near to the best one, since it loses least if it fails
PROMISING = 1.5  # a draft with this many tokens a round is off only for its time, which may have been measured at a bad moment
MARGIN = 1.02  # drafting has to be faster by this factor
CLEAR_GAIN = 1.3  # above this factor a round without a draft need not be measured again


class CostModel(LengthRule):
    """Chooses the draft length by measured times. gamma_max: the longest draft considered. budget: the share of all time that may be lost
    by trying a draft that is switched off."""

    def __init__(self, gamma_max: int = 20, budget: float = 0.02, clock: Callable[[], float] = perf_counter):
        if gamma_max < 1:
            raise ValueError(f"gamma_max={gamma_max} leaves nothing to choose; give 1 or more.")
        if not 0 <= budget < 1:
            raise ValueError(f"budget={budget} is no share of the time; give one in [0, 1).")
        self.gamma_max, self.budget, self.clock = gamma_max, budget, clock
        self.times, self.rates = RoundTimes(gamma_max), AcceptanceRates(gamma_max)
        self.gamma = 0  # the best length as last decided
        self._clear = False  # whether that length is faster by CLEAR_GAIN than no draft
        self._script = [min(length, gamma_max) for length in FIRST_LENGTHS]  # lengths to try before anything is decided
        self._speeds = [0.0] * (gamma_max + 1)  # tokens per second by length, as last estimated
        self._rounds = 0  # since drafting was switched on or off
        self._wait = PROBE_ROUNDS  # rounds without a draft until the next probe
        self._elapsed = self._lost = self._prefill = 0.0  # seconds at the first pace: of all rounds, lost by probes, of a draft's prefill
        self.start()

    def start(self) -> None:
        self._began: float | None = None  # when this round began, if a length was asked for
        self._warm = False  # whether the last round drafted, so that the draft model has read all of the text but the last tokens

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
        """Return the length other than the best one that is most likely to beat it after all. The times are estimated by a straight line,
        which cannot show where they jump, so lengths that were seldom measured get the benefit of HOPE."""
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
        """One of the scripted lengths has been tried: count what it lost against a round without a draft."""
        del self._script[0]
        if self.times.autoregressive is not None:
            self._lost += seconds / self.times.pace - (accepted + 1) * self.times.autoregressive
        if not self._script:
            self._lost = max(self._lost, 0.0)
            self._decide()

    def _decide(self) -> None:
        if not self.times.known():
            return  # the drafter has proposed nothing so far
        was, speeds = self.gamma, throughputs(self.rates.rates(), self.times.model())
        best = max(range(1, self.gamma_max + 1), key=speeds.__getitem__)
        self.gamma, self._speeds = best if speeds[best] > MARGIN * speeds[0] else 0, speeds
        self._clear = speeds[best] > CLEAR_GAIN * speeds[0]
        if self.gamma == 0:
            self._wait = min(2 * self._wait, LONGEST_WAIT) if was == 0 else 2 * PROBE_ROUNDS
        if self.gamma == 0 or was == 0:
            self._rounds = 0

    def _consider_probe(self) -> None:
        """If drafting has been off for long enough and the budget allows it, try it again with the shortest length that is nearly the best
        one, and forget most of what was measured about acceptance."""
        if self._rounds < self._wait:
            return
        length, tokens, price = self.gamma_max, 1.0, 0.0  # for a drafter that has proposed nothing so far
        if times := self.times.latest:
            worth = NEAR * max(self._speeds[1:])
            length = next(length for length in range(1, self.gamma_max + 1) if self._speeds[length] >= worth)
            tokens = self._speeds[length] * times[length]
            price = self._prefill + PROBE_ROUNDS * (times[length] - times[0])
        if tokens > PROMISING or self._lost + price <= self.budget * self._elapsed:
            self.rates.forget(PROBE_ROUNDS)
            self._script = [length] * PROBE_ROUNDS


SAMPLES = 9  # kept of each length: few enough to follow a machine whose speed changes, enough for a median
SURPRISE = 1.5  # a round counts as at most this many times its expected seconds
PACE_GAIN, WELL_KNOWN = 0.3, 4  # the power of a round's surprise that moves the pace, for lengths measured at least 4 times
TRUST = 4.0  # the straight line counts as this many samples in the estimate of a length
FIRST_RATE, FIRST_WEIGHT = 0.7, 2.0  # the first position's rate before it was measured, and as how many trials that counts
CHAIN_WEIGHT = 20.0  # the rate of the position before counts as this many trials in the rate of a position


class RoundTimes:
    """The seconds of a round by draft length 0..longest: the medians of what was measured, and a straight line through those above 0 to
    estimate lengths that were not measured. For example, medians of 12 ms at length 1 and 18 ms at length 4 make the line 10 + 2 gamma, so
    14 ms are expected at length 2.

    Of two samples the median is the lower one, because outliers are delays. Lengths are measured at different times, and the machine may
    be slower at one time than at another; so all seconds are divided by `pace`, which is how much slower the machine is now than when
    `model` first answered.
    """

    def __init__(self, longest: int):
        self.samples: list[deque[float]] = [deque(maxlen=SAMPLES) for _ in range(longest + 1)]
        self.pace = 1.0
        self.latest: list[float] = []  # the last answer of `model`

    def observe(self, length: int, seconds: float) -> None:
        """Take in the seconds of one round. If it took far longer than expected it counts as SURPRISE times the expected seconds: a single
        delay is then soon forgotten, while a length that really takes that long shows again and again."""
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
        """The median seconds of a round without a draft, or None if there was none."""
        return median_low(self.samples[0]) if self.samples[0] else None

    def known(self) -> bool:
        """Whether both a round without a draft and a round with one have been measured."""
        return bool(self.samples[0]) and any(self.samples[1:])

    def model(self) -> list[float]:
        """Return the seconds at every length 0..longest, which never fall from one length to the next. Call it only if `known`."""
        base = median_low(self.samples[0])
        seen = [(length, median_low(s), len(s)) for length, s in enumerate(self.samples) if length and s]
        start, slope = _line(seen) if len(seen) > 1 else (base, max(seen[0][1] - base, 0.0) / seen[0][0])
        times = [max(start + slope * length, base) for length in range(1, len(self.samples))]
        for length, middle, count in seen:
            times[length - 1] = max((count * middle + TRUST * times[length - 1]) / (count + TRUST), base)
        self.latest = [base, *_rising(times, [len(s) + 1.0 for s in self.samples[1:]])]
        return self.latest


def _rising(values: list[float], weights: list[float]) -> list[float]:
    """Return the nearest sequence that never falls, by weighted least squares: neighbours in the wrong order are replaced by their mean.
    For example, [1, 3, 2, 4] with equal weights becomes [1, 2.5, 2.5, 4]."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, length
    for mean, weight in zip(values, weights, strict=True):
        length = 1
        while pools and pools[-1][0] > mean:
            before, heft, count = pools.pop()
            mean, weight, length = (before * heft + mean * weight) / (heft + weight), heft + weight, length + count
        pools.append((mean, weight, length))
    return [mean for mean, _, length in pools for _ in range(length)]


def _line(points: list[tuple[int, float, int]]) -> tuple[float, float]:
    """Return (value at 0, slope >= 0) of the straight line through points (x, y, weight) by weighted least squares. There have to be points
    at two different x or more."""
    weight = sum(w for *_, w in points)
    x_mean, y_mean = sum(x * w for x, _, w in points) / weight, sum(y * w for _, y, w in points) / weight
    spread = sum(w * (x - x_mean) ** 2 for x, _, w in points)
    slope = max(sum(w * (x - x_mean) * (y - y_mean) for x, y, w in points) / spread, 0.0)
    return y_mean - slope * x_mean, slope


class AcceptanceRates:
    """P(position k is accepted | all before it were), k = 1..longest, estimated from rounds. With each later round the weight of an earlier
    one is multiplied by `memory`."""

    def __init__(self, longest: int, memory: float = 0.99):
        self.memory = memory
        self._kept, self._tried = [0.0] * longest, [0.0] * longest
        self._weight = 1.0  # of the next round; it grows instead of all counts shrinking, which is cheaper

    def observe(self, drafted: int, accepted: int) -> None:
        """Count a round. A position counts as tried if all before it were accepted: of 4 drafted and 2 accepted, positions 1 to 3."""
        for k in range(min(drafted, accepted + 1, len(self._tried))):
            self._tried[k] += self._weight
            self._kept[k] += self._weight * (k < accepted)
        self._weight /= self.memory
        if self._weight > 1e6:
            self._scale(1 / self._weight)

    def forget(self, rounds: float) -> None:
        """Reduce the weight of all past rounds to that of `rounds` new ones, so that new rounds count more."""
        if self._tried[0] > rounds * self._weight:
            self._scale(rounds / self._tried[0])
            self._weight = 1.0

    def rates(self) -> list[float]:
        """Return the rates. Each position's rate is mixed with that of the position before it, and the first with FIRST_RATE, which is
        high enough that a draft that was never tried is tried."""
        rates, before, weight = [], FIRST_RATE, FIRST_WEIGHT
        for kept, tried in zip(self._kept, self._tried, strict=True):
            before = (kept / self._weight + weight * before) / (tried / self._weight + weight)
            rates.append(before)
            weight = CHAIN_WEIGHT
        return rates

    def _scale(self, factor: float) -> None:
        self._kept, self._tried = [k * factor for k in self._kept], [t * factor for t in self._tried]
        self._weight *= factor
