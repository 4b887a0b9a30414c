"""Intervals from prompts made at random: whether they hold the truth as often as they say."""

import numpy as np
import pytest
from scipy.stats import t as student

from specexp.figures.speed import half_width, log_rate_ratio, rate_ratio_interval, t_quantile


def clusters(rng, count, speedup=1.0, lengths=0.6, own=0.3, noise=0.05):
    """[count, 4] prompts: lengths, each prompt's own speedup and the clock's noise on both sides are log-normal with these deviations."""
    tokens = np.maximum(1, np.round(80 * np.exp(rng.normal(0, lengths, count))))
    times = tokens * 0.003 * np.exp(rng.normal(0, noise, (2, count)))
    return np.stack([tokens, times[0] / (speedup * np.exp(rng.normal(0, own, count))), tokens, times[1]], axis=1)


SPREADS = {
    "A/A": {"own": 0.0}, "equal lengths": {"lengths": 0.0, "speedup": 1.7}, "usual": {"speedup": 1.7}, "wide": {"lengths": 1.0, "noise": 0.1, "speedup": 3.0},
}  # fmt: skip


@pytest.mark.parametrize("count", [5, 6, 8, 20, 40])
@pytest.mark.parametrize("spread", SPREADS)
def test_the_interval_covers_the_truth_about_as_often_as_it_says(spread, count):
    rng = np.random.default_rng(11)
    truth, trials = np.exp(log_rate_ratio(clusters(rng, 1_000_000, **SPREADS[spread]).sum(axis=0))), 4000
    intervals = [rate_ratio_interval(clusters(rng, count, **SPREADS[spread])) for _ in range(trials)]
    covered = sum(low <= truth <= high for low, high in intervals) / trials
    assert 0.935 <= covered <= 0.98  # 95 % but for four standard errors; where few prompts are mostly one, it is wider than it need be


def test_the_interval_brackets_the_estimate():
    rows = clusters(np.random.default_rng(1), 30, speedup=1.7)
    low, high = rate_ratio_interval(rows)
    assert low < np.exp(log_rate_ratio(rows.sum(axis=0))) < high
    assert rate_ratio_interval(rows, level=0.5)[0] > low


def test_sides_without_any_spread_have_an_interval_of_no_width():
    assert rate_ratio_interval(np.tile([10.0, 0.5, 10.0, 1.0], (5, 1))) == pytest.approx((2.0, 2.0))


@pytest.mark.parametrize("rows", [
    np.zeros((0, 4)),
    np.tile([10.0, 0.5, 10.0, 1.0], (4, 1)),                                           # too few
    np.concatenate([np.tile([10.0, 0.5, 10.0, 1.0], (4, 1)), np.zeros((9, 4))]),         # too few with any time
    np.tile([0.0, 0.0, 10.0, 1.0], (9, 1)),                                            # one side decoded nothing
    np.concatenate([np.tile([0.0, 0.0, 10.0, 1.0], (9, 1)), [[10.0, 0.5, 10.0, 1.0]]]),  # nor did it but for one prompt
    np.tile([10.0, 0.0, 10.0, 0.0], (9, 1)),                                           # a clock too coarse
])  # fmt: skip
def test_there_is_none_where_there_is_too_little(rows):
    assert rate_ratio_interval(rows) is None


def test_one_prompt_that_is_most_of_the_total_makes_it_very_wide():
    rows = clusters(np.random.default_rng(3), 12, speedup=1.7)
    low, high = rate_ratio_interval(rows)
    rows[0] *= 1000
    wide_low, wide_high = rate_ratio_interval(rows)
    assert wide_high / wide_low > 10 * high / low


@pytest.mark.parametrize("freedom", [1, 2, 3.4, 9, 163])
def test_students_quantiles_are_those_of_scipy_stats(freedom):
    for probability in (0.6, 0.975, 0.995):
        assert t_quantile(probability, freedom) == pytest.approx(student.ppf(probability, freedom), rel=1e-9)
    assert t_quantile(0.975, 1) == pytest.approx(12.706, abs=1e-3)


def test_the_half_width_of_a_mean_is_students():
    values = [3.0, 4.0, 5.5, 7.0, 4.5]
    low, high = student.interval(0.95, 4, np.mean(values), np.std(values, ddof=1) / 5**0.5)
    assert half_width(float(np.std(values, ddof=1)), 5) == pytest.approx((high - low) / 2)
