import pytest
from benchmarks.near_ties import first_difference, is_near_tie, noise_bound


def test_texts_part_at_their_first_difference():
    assert first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert first_difference([1, 2], [1, 2, 3]) is None


def test_the_bound_is_what_nearly_all_noise_stays_within():
    assert noise_bound([0.1, -0.4, 0.2, 0.3], share=0.5) == 0.3
    assert noise_bound([*[0.01] * 9999, 5.0]) == 0.01
    with pytest.raises(ValueError, match="at least one"):
        noise_bound([])


def test_a_gap_that_two_rounded_logits_can_close_is_a_tie():
    assert is_near_tie(-0.2, 0.1) and not is_near_tie(0.21, 0.1)
