"""Are two sides different, on the same examples? McNemar's exact test for passes, a permutation test for speed and for scores.

Pure functions on numbers. Both tests are exact in what they assume (that under the null hypothesis the two sides of an example could be
exchanged), so they hold for few examples; they say nothing about other kinds of example, nor of a machine that was slower on one day.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

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
