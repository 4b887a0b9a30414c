"""The formulas of decoding/theory.py against published values, limits and a simulation."""
import random

import pytest

from specexp.decoding.theory import best_length, expected_tokens, expected_tokens_from_rates, predicted_speedup, throughputs

# alpha, cost ratio -> best gamma, its speedup (the target's pass costs one step whatever its width)
TABLE = {
    (0.6, 0.01): (7, 2.30), (0.6, 0.03): (5, 2.07), (0.6, 0.05): (4, 1.92), (0.6, 0.10): (3, 1.67), (0.6, 0.20): (2, 1.40),
    (0.7, 0.01): (9, 2.97), (0.7, 0.03): (7, 2.60), (0.7, 0.05): (6, 2.35), (0.7, 0.10): (4, 1.98), (0.7, 0.20): (3, 1.58),
    (0.8, 0.01): (14, 4.23), (0.8, 0.03): (10, 3.52), (0.8, 0.05): (8, 3.09), (0.8, 0.10): (6, 2.47), (0.8, 0.20): (4, 1.87),
    (0.9, 0.01): (24, 7.49), (0.9, 0.03): (16, 5.63), (0.9, 0.05): (13, 4.67), (0.9, 0.10): (10, 3.43), (0.9, 0.20): (7, 2.37),
}


@pytest.mark.parametrize(("alpha", "cost"), TABLE)
def test_best_length_and_its_speedup(alpha, cost):
    gamma, speedup = TABLE[alpha, cost]
    assert best_length(alpha, cost, max_length=64) == gamma
    assert predicted_speedup(expected_tokens(alpha, gamma), gamma, cost) == pytest.approx(speedup, abs=0.005)


def test_expected_tokens_at_the_edges():
    assert expected_tokens(0.0, 5) == 1.0
    assert expected_tokens(1.0, 5) == 6.0
    assert expected_tokens(0.7, 0) == 1.0
    assert expected_tokens(0.8, 5) == pytest.approx((1 - 0.8**6) / (1 - 0.8))


def test_rates_by_position_generalise_alpha():
    assert expected_tokens_from_rates([]) == 1.0
    assert expected_tokens_from_rates([0.5, 0.0, 1.0]) == 1.5
    assert expected_tokens_from_rates([0.9, 0.5]) == pytest.approx(1 + 0.9 + 0.45)


def test_expected_tokens_is_the_mean_of_simulated_rounds():
    rng, rates = random.Random(3), [0.9, 0.6, 0.8]
    rounds = [1 + next((k for k, a in enumerate(rates) if rng.random() >= a), len(rates)) for _ in range(20_000)]
    assert sum(rounds) / len(rounds) == pytest.approx(expected_tokens_from_rates(rates), abs=0.03)


def test_verification_and_overhead_cost_time():
    assert predicted_speedup(3.0, 4, 0.05, verify_ratio=1.3, overhead=0.1) == pytest.approx(3.0 / 1.6)


def test_best_length_stops_speculating_when_drafts_cost_more_than_they_bring():
    assert best_length(0.3, 0.31, 16) == 0
    assert best_length(0.3, 0.29, 16) == 1
    assert best_length(0.9, 0.01, 0) == 0


def test_best_length_heeds_the_cost_of_wide_verification():
    assert best_length(0.9, 0.01, 64, verify=lambda gamma: 1 + 0.2 * gamma) < best_length(0.9, 0.01, 64)


@pytest.mark.parametrize("call", [
    lambda: expected_tokens(1.1, 3), lambda: expected_tokens(-0.1, 3), lambda: expected_tokens(0.5, -1),
    lambda: predicted_speedup(2.0, 0, 0.1, 0.0),
])
def test_impossible_numbers_are_refused(call):
    with pytest.raises(ValueError):
        call()


def test_throughputs_have_their_peak_at_the_best_length():
    costs = [1 + 0.1 * gamma for gamma in range(17)]
    speeds = throughputs([0.8] * 16, costs)
    assert speeds.index(max(speeds)) == best_length(0.8, 0.1, 16)
    assert speeds[:3] == pytest.approx([1.0, 1.8 / 1.1, 2.44 / 1.2])
    for wrong in ([1.0] * 16, [0.0] * 17):
        with pytest.raises(ValueError, match="positive cost"):
            throughputs([0.8] * 16, wrong)
