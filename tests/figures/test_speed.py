"""Speed, acceptance, cost and memory figures from synthetic records whose right answers are known by hand."""
import json
import random
from math import exp, isfinite

import numpy as np
import pytest
from sides import record, side

from specexp.figures.cost import expected_per_round, phases
from specexp.figures.record import Repeat
from specexp.figures.speed import example_figures, half_width, speedup_interval, summarise_speed, why_no_interval


def figures(*records):
    summary = summarise_speed(records)
    json.dumps(summary, allow_nan=False)  # summary.json takes it as it is
    return summary


def test_speedup_is_a_ratio_of_totals_and_geomean_of_prompts():
    found = figures(
        record("a", side(11, decode=0.5), side(11, decode=1.0)),   # 10 tokens: 20/s against 10/s
        record("b", side(31, decode=3.0), side(31, decode=3.0)),   # 30 tokens: 10/s against 10/s
    )
    assert found["speedup"] == pytest.approx((40 / 3.5) / (40 / 4.0))
    assert found["speedup_geomean"] == pytest.approx(2**0.5)
    assert found["tpot"] == pytest.approx(3.5 / 40)
    assert found["baseline_tpot"] == pytest.approx(0.1)
    assert found["output_tps_per_user"] == pytest.approx(40 / 3.5)
    assert found["output_tps"] == pytest.approx(42 / 3.7)
    assert found["e2e_speedup"] == pytest.approx((42 / 3.7) / (42 / 4.2))
    assert found["ttft"] == pytest.approx(0.1)
    assert found["e2e_latency"] == pytest.approx(3.7 / 2)


def test_tokens_of_the_first_emission_are_not_decoded():
    found = figures(record("a", side(13, decode=1.0, first_tokens=3), side(11, decode=1.0)))
    assert found["tpot"] == pytest.approx(0.1)
    assert found["speedup"] == pytest.approx(1.0)


def test_acceptance_counts_the_bonus_in_lengths_only():
    rounds = [[4, 4], [4, 2], [4, 0], [1, 1], [0, 0]]
    found = figures(record("a", side(13, rounds=rounds)), record("b", side(2, rounds=[[4, 4]])))
    assert (found["num_spec_steps"], found["num_draft_tokens"], found["num_accepted_draft_tokens"]) == (5, 17, 11)
    assert found["mean_acceptance_length"] == pytest.approx(1 + 11 / 5)
    assert found["mean_acceptance_length_macro"] == pytest.approx(((1 + 7 / 4) + (1 + 4)) / 2)
    assert found["draft_acceptance_rate"] == pytest.approx(11 / 17)
    assert found["alpha"] == pytest.approx(11 / (11 + 2))
    assert [found[f"conditional_acceptance_rate_{k}"] for k in (1, 2, 3, 4)] == pytest.approx([4 / 5, 3 / 3, 2 / 3, 2 / 2])
    assert [found[f"joint_acceptance_rate_{k}"] for k in (1, 2, 3, 4)] == pytest.approx([4 / 5, 3 / 5, 2 / 5, 2 / 5])
    assert "joint_acceptance_rate_5" not in found


def test_a_perfect_drafter_has_rate_one_and_never_more():
    found = figures(record("a", side(11, rounds=[[4, 4], [4, 4]])))
    assert found["draft_acceptance_rate"] == found["alpha"] == 1.0
    assert found["mean_acceptance_length"] == 5.0
    with pytest.raises(ValueError, match="cannot accept 5 of 4"):
        figures(record("a", side(11, rounds=[[4, 5]])))


def test_a_tree_is_judged_by_its_depth():
    found = figures(record("a", side(9, rounds=[[12, 3, 3, 8, 0], [12, 1, 3, 8, 1]])))
    assert found["draft_acceptance_rate"] == pytest.approx(4 / 24)
    assert found["alpha"] == pytest.approx(4 / 5)
    assert [found[f"conditional_acceptance_rate_{k}"] for k in (1, 2, 3)] == [1.0, 0.5, 1.0]
    assert "conditional_acceptance_rate_4" not in found


def test_a_path_kept_down_to_a_leaf_refuses_nothing_however_deep_others_are():
    found = figures(record("a", side(9, rounds=[[9, 2, 4, 3, 0], [9, 4, 4, 3, 0], [9, 3, 4, 3, 0]])))
    assert found["alpha"] == 1.0
    assert [found[f"conditional_acceptance_rate_{k}"] for k in (1, 2, 3, 4)] == [1.0] * 4


def test_tree_statistics_only_where_there_were_trees():
    found = figures(record("a", side(9, rounds=[[12, 3, 3, 5, 0], [6, 1, 3, 2, 1], [2, 2]])))
    assert (found["total_tree_nodes"], found["total_paths_explored"], found["max_path_length_achieved"]) == (20, 8, 3)
    assert found["avg_accepted_path_length"] == 2.0 == found["mean_acceptance_length"] - 1
    assert found["mean_tree_nodes"] == pytest.approx(20 / 3)
    assert "total_tree_nodes" not in figures(record("a", side(9, rounds=[[4, 3], [0, 0]])))


def test_alpha_recovers_the_rate_that_made_the_rounds():
    rng = random.Random(7)
    rounds = [[6, next((k for k in range(6) if rng.random() >= 0.7), 6)] for _ in range(4000)]
    found = figures(record("a", side(2, rounds=rounds)))
    assert found["alpha"] == pytest.approx(0.7, abs=0.015)
    assert found["conditional_acceptance_rate_6"] == pytest.approx(0.7, abs=0.06)
    assert 1 + sum(found[f"joint_acceptance_rate_{k}"] for k in range(1, 7)) == pytest.approx(found["mean_acceptance_length"])


def test_tokens_by_origin_and_stage():
    found = figures(record("a", side(5, rounds=[[3, 3]], origins=["target", "draft:csd", "draft:maxgram", "draft:csd", "bonus"])))
    assert (found["tokens_target"], found["tokens_draft"], found["tokens_bonus"], found["tokens_resample"]) == (1, 3, 1, 0)
    assert (found["tokens_draft_csd"], found["tokens_draft_maxgram"]) == (2, 1)


def test_memory_forwards_perplexity_and_equality():
    found = figures(
        record("a", side(11, rounds=[[4, 4], [4, 4]], draft_forwards_by_model={"draft": 9}, kv_bytes_target=70), side(11, nll_sum=22.0)),
        record("b", side(11, rounds=[[4, 4], [4, 4]], draft_forwards_by_model={"big": 3, "small": 5}, kv_bytes_target=90, ids=[0] * 11), side(11, nll_sum=11.0)),
    )
    assert (found["target_forwards"], found["draft_forwards"], found["baseline_target_forwards"]) == (6, 17, 22)
    assert (found["kv_bytes_target"], found["baseline_kv_bytes_target"]) == (90, 100)
    assert found["block_efficiency"] == pytest.approx(22 / 6)
    assert found["baseline_block_efficiency"] == 1.0
    assert found["peak_mem_allocated"] is None
    assert found["perplexity"] == pytest.approx(exp(2.0))
    assert found["baseline_perplexity"] == pytest.approx(exp(33 / 22))
    assert found["equal_texts"] == 0.5


def test_the_largest_known_peak_is_reported():
    assert figures(record("a", side(peak_memory_bytes=5)), record("b", side(peak_memory_bytes=9)))["peak_mem_allocated"] == 9


def test_costs_and_prediction():
    # 10 rounds of 4 drafts, all accepted: 50 tokens after the first. AR: 10 ms a token. Round: 13 ms target, 4 x 1 ms draft, 3 ms rest.
    method = side(51, rounds=[[4, 4]] * 10, decode=0.200, target_seconds=0.130, draft_seconds=0.040)
    found = figures(record("a", method, side(51, decode=0.500)))
    assert found["cost_ratio_c"] == pytest.approx(0.1)
    assert found["verify_ratio_v"] == pytest.approx(1.3)
    assert found["overhead_ms_per_round"] == pytest.approx(3.0)
    assert found["predicted_speedup"] == pytest.approx(5 / (1.3 + 4 * 0.1))
    assert found["speedup"] == pytest.approx(2.5)
    assert found["efficiency"] == pytest.approx(2.5 / (5 / 1.7))


def test_rounds_without_a_draft_are_part_of_the_prediction():
    method = side(12, rounds=[[4, 4], [0, 0]], decode=0.06, target_seconds=0.04, draft_seconds=0.02)
    found = figures(record("a", method, side(12, decode=0.11)))
    assert found["predicted_speedup"] == pytest.approx(((5 + 1) / 2) / (2.0 + 2 * 0.5))


def test_unknown_times_leave_the_costs_unknown():
    found = figures(record("a", side(51, rounds=[[4, 4]] * 10), side(51)))
    for key in ("cost_ratio_c", "verify_ratio_v", "overhead_ms_per_round", "predicted_speedup", "efficiency"):
        assert found[key] is None


def test_autoregressive_against_itself_has_no_rates_and_no_prediction():
    timed = {"target_seconds": 0.9, "draft_seconds": 0.0}
    found = figures(*(record(str(i), side(**timed), side(**timed)) for i in range(5)))
    assert found["speedup"] == found["speedup_low"] == found["speedup_high"] == found["e2e_speedup"] == found["equal_texts"] == 1.0
    for key in ("mean_acceptance_length", "mean_acceptance_length_macro", "draft_acceptance_rate", "alpha", "predicted_speedup",
                "cost_ratio_c"):
        assert found[key] is None
    assert found["num_spec_steps"] == 0
    assert found["tokens_per_emission"] == 1.0
    assert found["verify_ratio_v"] == pytest.approx(0.9)


@pytest.mark.parametrize("records", [
    [record("a", side(1, decode=0.0), side(1, decode=0.0))],                                   # one token: nothing decoded
    [record(str(i), side(1, decode=0.0), side(1, decode=0.0)) for i in range(6)],
    [record(str(i), side(5, decode=0.0), side(5, decode=0.0)) for i in range(6)],              # a clock too coarse
    [record("a", side(5, rounds=[[4, 4]], target_seconds=0.0, draft_seconds=0.0), side(5))],
    [record("a", side(0, decode=0.0, rounds=[]), side(0, decode=0.0, rounds=[]))],
    [record("a", side(3))],                                                                    # no baseline
    [record("a", side(3, nll_sum=float("nan")), side(3, nll_sum=1e9))],
    [],
])
def test_degenerate_runs_give_nulls(records):
    found = figures(*records)
    assert all(value is None or isfinite(value) for value in found.values())
    assert found.get("speedup_low") is None


def test_one_prompt_has_a_speedup_without_an_interval_whatever_its_samples():
    found = figures(*(record("a", side(decode=d), side()) for d in (0.3, 0.4, 0.5, 0.5, 0.6, 0.7)))
    assert found["speedup"] == pytest.approx(2.0)
    assert found["speedup_low"] is None and found["speedup_high"] is None
    assert (found["num_examples"], found["num_samples"]) == (1, 6)


@pytest.mark.parametrize(("prompts", "there"), [(1, False), (2, False), (4, False), (5, True), (6, True)])
def test_below_five_prompts_there_is_no_interval_and_a_sentence_says_why(prompts, there):
    found = figures(*(record(str(i), side(decode=0.5 + 0.01 * i), side()) for i in range(prompts)))
    assert found["speedup"] is not None and (found["speedup_low"] is not None) is there is (found["speedup_high"] is not None)
    assert (speedup_interval(found) is not None) is there is (why_no_interval(found) is None)
    if not there:
        assert f"takes 5 prompts, and there {'is' if prompts == 1 else 'are'} {prompts}." in why_no_interval(found)


def test_prompts_without_a_decoded_token_do_not_count_for_an_interval():
    found = figures(*(record(str(i), side(tokens, decode=decode), side(tokens, decode=decode)) for i, (tokens, decode) in enumerate([(11, 0.5)] * 4 + [(1, 0.0)] * 3)))
    assert found["speedup"] == 1.0 and found["speedup_low"] is None
    assert why_no_interval(found) == "The speedup has no 95 % interval: fewer than 5 prompts were decoded for a measurable time."


def test_an_older_summarys_interval_of_few_prompts_is_not_shown():
    old = {"speedup": 2.0, "speedup_low": 1.9, "speedup_high": 2.1, "num_examples": 4}
    assert speedup_interval(old) is None and "there are 4" in why_no_interval(old)
    assert speedup_interval(old | {"num_examples": 64}) == (1.9, 2.1) and why_no_interval({"num_examples": 3}) is None


def test_further_baselines_keep_their_names():
    found = figures(*(record(n, side(decode=0.5), side(), baseline_captured=side(decode=0.6)) for n in "abcde"))
    assert found["speedup"] == pytest.approx(2.0)
    assert found["speedup_vs_captured"] == pytest.approx(1.2)
    assert found["speedup_low_vs_captured"] == pytest.approx(1.2)
    assert found["baseline_captured_tpot"] == pytest.approx(0.06)


def test_a_baseline_that_drafts_has_its_acceptance():
    drafting, plain = side(13, rounds=[[4, 4], [4, 2], [4, 0]]), side(11, decode=1.0)
    found = figures(record("a", side(13, rounds=[[2, 1]]), plain, baseline_assisted=drafting))
    assert found["baseline_assisted_draft_acceptance_rate"] == pytest.approx(6 / 12)
    assert found["baseline_assisted_mean_acceptance_length"] == pytest.approx(3.0)
    assert "baseline_draft_acceptance_rate" not in found and not any("joint_acceptance" in key for key in found if key.startswith("baseline"))


def test_the_row_of_one_example():
    row = example_figures(record("a", side(11, rounds=[[4, 4], [4, 4]], decode=0.5), side(11)))
    assert (row["speedup"], row["mean_acceptance_length"], row["num_tokens"]) == (pytest.approx(2.0), 5.0, 11)
    assert "speedup" not in example_figures(record("a", side()))


def test_samples_of_one_prompt_are_one_cluster():
    """Repeating each prompt's numbers ten times must not make the interval narrower."""
    rng = np.random.default_rng(2)
    decodes = rng.uniform(0.3, 0.9, 12)
    once = figures(*(record(str(i), side(decode=d), side()) for i, d in enumerate(decodes)))
    tenfold = figures(*(record(str(i), side(decode=d), side()) for i, d in enumerate(decodes) for _ in range(10)))
    assert tenfold["speedup_low"] == pytest.approx(once["speedup_low"])
    assert tenfold["speedup_high"] == pytest.approx(once["speedup_high"])


def test_draft_lengths_and_entropies_are_summarised():
    found = figures(
        record("a", side(13, rounds=[[4, 4], [2, 2], [0, 0]], entropies=[0.25, 1.5, None])),
        record("b", side(9, rounds=[[4, 0], [6, 2, 3]], entropies=[1.25, None])),
    )
    assert found["mean_gamma"] == pytest.approx((4 + 2 + 0 + 4 + 3) / 5)
    assert {k: found[f"gamma_histogram_{k}"] for k in (0, 2, 3, 4)} == {0: 1, 2: 1, 3: 1, 4: 2}
    assert found["mean_entropy"] == pytest.approx(1.0)
    assert (found["entropy_histogram_0"], found["entropy_histogram_1"]) == (1, 2)
    assert figures(record("a", side(11, rounds=[[4, 4], [4, 4]])))["mean_entropy"] is None


def test_figures_of_too_little_are_refused():
    with pytest.raises(ValueError, match="at least one round"):
        expected_per_round([])
    with pytest.raises(ValueError, match="two values or more, got 1"):
        half_width(0.5, 1)


def repeated(*times, **others):
    """A side whose text was made several times: (tokens, decode seconds) of each repeat."""
    repeats = tuple(Repeat(tokens, 1, tokens - 1, 0, 0.1, decode) for tokens, decode in times)
    return side(times[0][0], repeats=repeats, repeats_agree=len({tokens for tokens, _ in times}) == 1, **others)


def test_repeats_that_are_other_texts_count_with_their_own_tokens():
    found = figures(record("a", repeated((11, 0.5), (31, 1.5)), side(11, decode=1.0)))  # 10 and 30 tokens, 20/s both times
    assert found["output_tps_per_user"] == pytest.approx(20.0) and found["tpot"] == pytest.approx(0.05) and found["speedup"] == pytest.approx(2.0)
    assert found["output_tps"] == pytest.approx(42 / 2.2) and found["output_tps_per_user_mean"] == pytest.approx(20.0)
    assert found["itl"] == pytest.approx(0.05) and found["e2e_latency"] == pytest.approx(1.1) and found["num_tokens"] == 11
    assert found["unequal_repeats"] == 1 and found["baseline_unequal_repeats"] == 0


def test_repeats_of_one_text_are_its_mean_time():
    found = figures(record("a", repeated((11, 0.4), (11, 0.6)), side(11, decode=1.0)))
    assert found["tpot"] == found["itl"] == pytest.approx(0.05) and found["speedup"] == pytest.approx(2.0) and found["unequal_repeats"] == 0


def test_a_round_that_made_the_first_emission_is_not_divided_by():
    """Three rounds of three tokens, of which the clock saw two."""
    own = side(9, rounds=[[2, 2]] * 3, decode=0.2, first_tokens=3, first_rounds=1, target_seconds=0.1, draft_seconds=0.04)
    found = figures(record("a", own, side(9, decode=0.8)))
    assert found["tokens_per_emission"] == pytest.approx(3.0) and found["itl"] == pytest.approx(0.1)
    assert found["verify_ratio_v"] == pytest.approx(0.05 / 0.1) and found["cost_ratio_c"] == pytest.approx(0.01 / 0.1)
    assert found["overhead_ms_per_round"] == pytest.approx(30.0) and phases([own], None).round == pytest.approx(0.1)
    assert found["num_spec_steps"] == 3


@pytest.mark.parametrize(("rounds", "tokens", "drafted"), [
    ([[4, 4], [2, 2], [2, 2]], 3.0, 2),                    # the first emission's draft was longer
    ([[0, 0], [2, 2], [2, 0]], 1 + 0.5 + 0.5, 2),          # or there was none
    ([[2, 0], [2, 2], [2, 2]], 1 + 2 / 3 + 2 / 3, 2),      # its acceptance is in the rates
    ([[12, 3, 3, 8, 0], [6, 1, 3, 2, 1], [6, 1, 3, 2, 1]], 2.0, 6),
])  # fmt: skip
def test_a_prediction_is_of_the_rounds_that_were_timed(rounds, tokens, drafted):
    """What a round emits, drafts and takes are means over the same rounds: those behind the first emission."""
    own = side(9, rounds=rounds, decode=0.2, first_tokens=3, first_rounds=1, target_seconds=0.1, draft_seconds=0.02 * drafted)
    found = figures(record("a", own, side(9, decode=0.8)))
    assert found["verify_ratio_v"] == pytest.approx(0.5) and found["cost_ratio_c"] == pytest.approx(0.1)
    assert found["predicted_speedup"] == pytest.approx(tokens / (0.5 + drafted * 0.1))


def test_without_a_timed_round_of_the_recorded_text_there_is_no_prediction():
    times = (Repeat(5, 5, 0, 0, 0.1, 0.0, 0.0, 0.0), Repeat(8, 5, 1, 2, 0.1, 0.1, 0.05, 0.02))
    found = figures(record("a", side(5, rounds=[[4, 4]], first_rounds=1, repeats=times), side(5)))
    assert found["verify_ratio_v"] is not None and found["predicted_speedup"] is None
