"""Are two sides different, on the same examples? McNemar's exact test for passes, a permutation test for speed and for scores.

Works on plain numbers and knows nothing of records. Both tests assume only that, if the sides were equal, the two results of an example
could be exchanged, so they hold for few examples. They say nothing about other kinds of example, nor of a machine that was slower on one
day.

The only module that loads scipy.stats, which takes about a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, permutation_test

from specexp.figures.speed import log_rate_ratio

DRAWS = 10_000  # random exchanges; where there are no more than so many (up to 13 examples), all of them are tried
BATCH = 256  # exchanges that are computed at a time, which bounds memory
SURPRISING = 0.05


@dataclass(frozen=True)
class McNemar:
    """Of `count` examples `only_a` passed with a alone, `only_b` with b alone; `p` two-sided, exact."""
    count: int
    only_a: int
    only_b: int
    p: float

    @property
    def detectable(self) -> float | None:
        """The least difference of the pass rates that would have had p < 0.05 with as many examples on which the sides differ; None where
        there are too few examples for any difference to have it."""
        differing = max(self.only_a + self.only_b, 6)  # five that all point one way are p = 0.06
        if differing > self.count:
            return None
        fewest = next(k for k in range((differing + 1) // 2, differing + 1) if binomtest(k, differing).pvalue < SURPRISING)
        return (2 * fewest - differing) / self.count


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> McNemar:
    """McNemar's exact test (McNemar 1947; the binomial form): whether a and b, passes of the same examples, have the same rate."""
    only_a, only_b = (sum(x and not y for x, y in zip(*sides, strict=True)) for sides in ((a, b), (b, a)))
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(len(a), only_a, only_b, p)


def permutation_p(a: np.ndarray, b: np.ndarray, statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], seed: int = 0) -> float | None:
    """Two-sided p that rows of a and b [examples, columns] can be exchanged in pairs, by `statistic`, which is 0 where the sides are alike.

    `statistic` maps two sums over examples [..., columns] to [...]. None where it is not a finite number for the rows as they are. An
    exchange for which it has no value counts as surprising as the rows as they are, so that p is never too small.
    """
    rows = np.concatenate([a, b])

    def size(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
        """Of rows given by their numbers, since exchanging an example means exchanging all columns of it."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.abs(statistic(rows[first].sum(axis=-2), rows[second].sum(axis=-2)))
        return np.where(np.isnan(found), np.inf, found)

    numbers = np.arange(len(a)), np.arange(len(a), 2 * len(a))
    if not np.isfinite(size(*numbers)):
        return None
    if len(a) < 2:  # the one exchange is as surprising as none
        return 1.0
    found = permutation_test(
        numbers, size, permutation_type="samples", alternative="greater", n_resamples=DRAWS, batch=BATCH, vectorized=True, axis=-1,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)


def log_speed_ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """log of the ratio of two speedups (or, with two columns, throughputs); columns: tokens, seconds, baseline's tokens, its seconds."""
    return log_rate_ratio(a) - log_rate_ratio(b)


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of sums of scores."""
    return a[..., 0] - b[..., 0]
