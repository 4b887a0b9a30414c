"""The paired tests against enumerating every case by hand, and where they have no answer."""

from itertools import product
from math import comb
from statistics import NormalDist

import numpy as np
import pytest

from specexp.figures.paired import McNemar, difference, log_speed_ratio, mcnemar, permutation_p


def enumerated(a, b, statistic):
    """The share of all exchanges whose statistic is at least as far from 0."""
    observed = abs(statistic(a.sum(axis=0), b.sum(axis=0)))
    sizes = []
    for swapped in product([False, True], repeat=len(a)):
        chosen = np.array(swapped)[:, None]
        sizes.append(abs(statistic(np.where(chosen, b, a).sum(axis=0), np.where(chosen, a, b).sum(axis=0))))
    return np.mean([size >= observed - 1e-12 for size in sizes])


@pytest.mark.parametrize("columns", [2, 4])
@pytest.mark.parametrize("examples", [2, 5, 8])
def test_few_examples_are_enumerated(examples, columns):
    rng = np.random.default_rng(examples)
    a, b = rng.uniform(1, 2, (2, examples, columns))
    assert permutation_p(a, b, log_speed_ratio) == pytest.approx(enumerated(a, b, log_speed_ratio))
    assert permutation_p(a[:, :1], b[:, :1], difference) == pytest.approx(enumerated(a[:, :1], b[:, :1], difference))


def test_many_examples_are_drawn_by_a_seed():
    rng = np.random.default_rng(0)
    a = rng.uniform(1, 2, (40, 1))
    b = a + rng.normal(0.02, 0.1, (40, 1))
    p = permutation_p(a, b, difference, seed=4)
    assert p == permutation_p(a, b, difference, seed=4)
    z = abs((a - b).sum()) / np.sqrt(((a - b) ** 2).sum())
    assert p == pytest.approx(2 * NormalDist().cdf(-z), abs=0.02)
    assert permutation_p(a, a + 1, difference) == pytest.approx(1 / 10_001)


def test_equal_sides_are_not_different():
    rows = np.full((6, 2), 2.0)
    assert permutation_p(rows, rows, log_speed_ratio) == 1.0


def test_a_p_is_right_under_the_null():
    """Between sides that are exchangeable, p < 0.05 comes at most as often."""
    rng = np.random.default_rng(5)
    found = [permutation_p(*np.exp(rng.normal(0, 0.3, (2, 7, 2))), log_speed_ratio) for _ in range(300)]
    assert np.mean(np.array(found) < 0.05) <= 0.09 and np.mean(np.array(found) < 0.5) == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("a", [np.zeros((4, 2)), np.tile([8.0, 0.0], (4, 1)), np.tile([0.0, 1.0], (4, 1)), np.full((4, 2), np.nan), np.zeros((1, 2))])
def test_what_has_no_finite_statistic_has_no_p(a):
    assert permutation_p(a, np.tile([8.0, 1.0], (len(a), 1)), log_speed_ratio) is None


def test_exchanges_without_a_value_never_make_p_small():
    a, b = np.array([[9.0, 1.0], [0.0, 0.0], [0.0, 0.0]]), np.array([[0.0, 0.0], [9.0, 2.0], [0.0, 0.0]])
    p = permutation_p(a, b, log_speed_ratio)
    assert p == pytest.approx(1.0)


def test_one_example_can_show_nothing():
    assert permutation_p(np.array([[8.0, 1.0]]), np.array([[8.0, 2.0]]), log_speed_ratio) == 1.0


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (5, 0), (6, 0), (2, 9), (10, 10), (1, 30)])
def test_mcnemar_is_the_binomial_by_hand(only_a, only_b):
    test = mcnemar([True] * only_a + [False] * only_b + [True] * 3, [False] * only_a + [True] * only_b + [True] * 3)
    differing = only_a + only_b
    tail = sum(comb(differing, k) for k in range(max(only_a, only_b), differing + 1))
    assert (test.count, test.only_a, test.only_b) == (differing + 3, only_a, only_b)
    assert test.p == pytest.approx(min(1.0, 2 * tail / 2**differing))


def test_what_could_have_been_seen_is_a_share_or_nothing():
    for count in range(1, 200):
        for differing in {0, min(5, count), count // 2, count}:
            share = McNemar(count, differing, 0, 0.5).detectable
            assert share is None if count < 6 else 0 < share <= 1
    assert McNemar(164, 6, 5, 1.0).detectable == pytest.approx((10 - 1) / 164)  # of 11, 10 to 1 has p = 0.012, 9 to 2 has 0.065
