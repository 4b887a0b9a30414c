"""How sure a speedup is: a bootstrap interval for the ratio of two rates, resampling whole prompts.

Knows nothing of records or models: one row of numbers per cluster (a prompt with all its samples and repeats). The interval speaks for
other prompts of the same kind on this machine in this state; it does not know of a machine that slowed down halfway.

Are two sides different, on the same examples? McNemar's exact test for passes, a permutation test for speed and for scores.

Pure functions on numbers. Both tests are exact in what they assume (that under the null hypothesis the two sides of an example could be
exchanged), so they hold for few examples; they say nothing about other kinds of example, nor of a machine that was slower on one day.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import NormalDist

import numpy as np

BLOCK = 256  # resamples drawn at a time: bounds memory at BLOCK x clusters


def rate_ratio_interval(
    clusters: np.ndarray, level: float = 0.95, resamples: int = 4000, seed: int = 0
) -> tuple[float, float] | None:
    """Interval of (sum a / sum b) / (sum c / sum d) over `clusters` [K, 4] with columns a, b, c, d; None when fewer than two say anything.

    Percentile bootstrap with percentiles widened as Student's t is wider than the normal (the expanded percentile interval of Hesterberg
    2015, "What Teachers Should Know About the Bootstrap", section 4.2): the plain one covers 80 % instead of 95 % with five prompts.
    """
    told = clusters[clusters.any(axis=1)]
    if len(told) < 2:
        return None
    ratios = _resampled_ratios(told, resamples, np.random.default_rng(seed))
    ratios = ratios[np.isfinite(ratios)]
    if not len(ratios):
        return None
    tail = widened_tail((1 - level) / 2, len(told))
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(low), float(high)


def _resampled_ratios(clusters: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """[resamples] ratios, each from K clusters drawn with replacement; not finite where a drawn set held no time."""
    k, blocks = len(clusters), []
    for start in range(0, resamples, BLOCK):
        times_drawn = rng.multinomial(k, np.full(k, 1 / k), size=min(BLOCK, resamples - start))
        a, b, c, d = (times_drawn @ clusters).T
        with np.errstate(divide="ignore", invalid="ignore"):
            blocks.append((a / b) / (c / d))
    return np.concatenate(blocks)


def widened_tail(tail: float, k: int) -> float:
    """The normal tail beyond the t quantile of k - 1 degrees of freedom, times sqrt(k / (k - 1)) for the bootstrap's divisor k."""
    return NormalDist().cdf(-sqrt(k / (k - 1)) * t_quantile(1 - tail, k - 1))


def t_quantile(probability: float, freedom: int) -> float:
    """Student's t quantile by the Cornish-Fisher series (Abramowitz and Stegun 26.7.5): within 1 % from three degrees of freedom on."""
    z, v = NormalDist().inv_cdf(probability), freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )


DRAWS = 10_000
EXHAUSTIVE = 13  # examples up to which all exchanges are tried: 2^13 of them


@dataclass(frozen=True)
class McNemar:
    """Of `count` examples `only_a` passed with a alone, `only_b` with b alone; `p` two-sided, exact."""
    count: int
    only_a: int
    only_b: int
    p: float

    @property
    def detectable(self) -> float:
        """The least difference of the pass rates that would have had p < 0.05 with as many examples on which the sides differ."""
        differing = max(self.only_a + self.only_b, 6)  # five that all point one way are p = 0.06
        fewest = next(k for k in range((differing + 1) // 2, differing + 1) if _two_sided(k, differing) < 0.05)
        return (2 * fewest - differing) / self.count


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> McNemar:
    """McNemar's exact test (McNemar 1947; the binomial form): whether a and b, passes of the same examples, have the same rate."""
    only_a, only_b = (sum(x and not y for x, y in zip(*sides, strict=True)) for sides in ((a, b), (b, a)))
    return McNemar(len(a), only_a, only_b, _two_sided(max(only_a, only_b), only_a + only_b))


def _two_sided(larger: int, differing: int) -> float:
    """P of a split at least as uneven of `differing` fair coins."""
    tail = sum(comb(differing, k) for k in range(larger, differing + 1))
    return min(1.0, 2 * tail / 2**differing)


def permutation_p(a: np.ndarray, b: np.ndarray, statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], seed: int = 0) -> float:
    """Two-sided p that rows of a and b [examples, columns] can be exchanged in pairs, by `statistic`, which is 0 where the sides are alike.

    `statistic` maps two sums over examples [draws, columns] to [draws]. All exchanges of up to EXHAUSTIVE examples, else DRAWS random ones.
    """
    swaps = _swaps(len(a), seed)
    changed = swaps @ (b - a)
    observed = abs(statistic(a.sum(0, keepdims=True), b.sum(0, keepdims=True))[0])
    drawn = np.abs(statistic(a.sum(0) + changed, b.sum(0) - changed))
    as_far = int((drawn >= observed - 1e-12).sum())
    return as_far / len(swaps) if len(a) <= EXHAUSTIVE else (as_far + 1) / (len(swaps) + 1)


def _swaps(examples: int, seed: int) -> np.ndarray:
    """[draws, examples] of 0 and 1."""
    if examples <= EXHAUSTIVE:
        return (np.arange(2**examples)[:, None] >> np.arange(examples)) & 1
    return np.random.default_rng(seed).integers(0, 2, (DRAWS, examples))


def log_speed_ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """log of the ratio of two speedups (or, with two columns, throughputs); columns: tokens, seconds, baseline's tokens, its seconds."""
    return _log_rate(a) - _log_rate(b)


def _log_rate(sums: np.ndarray) -> np.ndarray:
    rate = np.log(sums[:, 0]) - np.log(sums[:, 1])
    return rate - np.log(sums[:, 2]) + np.log(sums[:, 3]) if sums.shape[1] > 2 else rate


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of sums of scores."""
    return a[:, 0] - b[:, 0]
