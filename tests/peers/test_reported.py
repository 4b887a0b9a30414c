"""What servers report of their own speculation becomes our counts, and what does not fit together becomes nothing."""

import json

import pytest
from sides import record, side
from streams import text, usage

from specexp.figures.record import Record
from specexp.figures.served import served_figures, served_notes
from specexp.figures.speed import summarise_speed
from specexp.peers.reply import Reply
from specexp.peers.reported import NOTHING, told_speculation

VLLM = {
    "mean_acceptance_length": 1.23, "draft_acceptance_rate": 0.0775, "acceptance_histogram": [39, 1, 0, 3], "num_spec_steps": 43,
    "num_accepted_draft_tokens": 10, "num_draft_tokens": 129, "num_spec_tokens": 3,
}
DETAILED = {
    "num_spec_steps": 4, "num_accepted_draft_tokens": 5, "num_draft_tokens": 9, "num_spec_tokens": 3, "acceptance_histogram": [1, 2, 0, 1],
    "per_step_accepted": [1, 0, 3, 1], "per_step_drafted": [3, 2, 3, 1],
}
SGLANG = {
    "spec_verify_ct": 4, "spec_num_correct_drafts": 6, "spec_num_proposed_drafts": 12, "spec_accept_length": 2.75, "spec_accept_rate": 0.5,
    "spec_correct_drafts_histogram": [1, 1, 1, 1],
}


def vllm(block):
    return usage(9) | {"metrics": {"speculative_decoding": block}}


def figures(*told, tokens=11):
    """Of texts whose servers told these chunks."""
    replies = [Reply("t", "stop", (0.1, 0.2, 0.3), 2, 5, tokens, 1, 0.0, speculation=told_speculation(chunk, tokens)) for chunk in told]
    records = [Record(str(n), 0, "p", (), {"method": reply.record()}) for n, reply in enumerate(replies)]
    again = [Record.from_json(json.loads(json.dumps(record.to_json()))) for record in records]
    assert [each.sides["method"].speculation for each in again] == [each.sides["method"].speculation for each in records]
    return summarise_speed(again) | served_figures(again)


def test_vllms_summary_is_known_step_by_step_where_all_drafts_are_as_long_as_they_may_be():
    found = figures(vllm(VLLM))
    assert (found["num_spec_steps"], found["num_draft_tokens"], found["num_accepted_draft_tokens"]) == (43, 129, 10)
    assert found["mean_acceptance_length"] == pytest.approx(1 + 10 / 43) and found["draft_acceptance_rate"] == pytest.approx(10 / 129)
    assert found["joint_acceptance_rate_1"] == pytest.approx(4 / 43) and found["conditional_acceptance_rate_2"] == pytest.approx(3 / 4)
    assert found["alpha"] == pytest.approx(10 / (10 + 40)) and found["mean_gamma"] == 3 and found["texts_with_totals_alone"] == 0
    assert found["draft_acceptance_rate_mean"] == pytest.approx(10 / 129) and found["acceptance_told_by"] == "vLLM"


def test_vllms_details_are_its_rounds():
    found = figures(vllm(DETAILED))
    ours = summarise_speed([record("a", side(10, rounds=[[3, 1], [2, 0], [3, 3], [1, 1]]))])
    keys = [key for key in ours if "acceptance" in key or "spec" in key or "gamma" in key or key == "alpha"]
    assert {key: found[key] for key in keys} == {key: ours[key] for key in keys} and len(keys) > 12


def test_drafts_of_unequal_lengths_are_known_in_totals():
    found = figures(vllm(VLLM | {"num_draft_tokens": 100}))
    assert found["mean_acceptance_length"] == pytest.approx(1 + 10 / 43) and found["draft_acceptance_rate"] == 0.1 and found["alpha"] is None
    assert found["joint_acceptance_rate_3"] == pytest.approx(3 / 43) and "conditional_acceptance_rate_1" not in found and found["mean_gamma"] is None
    assert found["texts_with_totals_alone"] == 1 and "in totals" in served_notes(found)[0]


@pytest.mark.parametrize("chunk", [
    {"choices": [], "sglext": {"spec_tokens_details": SGLANG}},
    {"choices": [], "sglext": {"spec_tokens_details": [SGLANG]}},
    {"meta_info": SGLANG, "text": ""},
    {"choices": [{"text": "", "finish_reason": "stop", "meta_info": SGLANG}]},
    {"meta_info": {"spec_verify_ct": 4, "spec_accepted_drafts": 6, "spec_proposed_drafts": 12, "spec_accept_histogram": [1, 1, 1, 1]}},
    {"meta_info": {"spec_verify_ct": 4, "spec_accept_token_num": 6, "spec_draft_token_num": 12, "spec_correct_drafts_histogram": [1, 1, 1, 1]}},
])  # fmt: skip
def test_sglangs_counts_are_converted_whatever_its_version_calls_them(chunk):
    found = figures(chunk, tokens=11)
    assert found["mean_acceptance_length"] == 1 + 6 / 4  # and not 11 / 4, which counts the prefill's token
    assert found["draft_acceptance_rate"] == 0.5 and found["num_spec_steps"] == 4 and found["joint_acceptance_rate_2"] == 0.5
    notes = " ".join(served_notes(found))
    assert "SGLang" in notes and "in totals" in notes and "counts the prefill's token too" in notes


def test_steps_alone_tell_what_was_emitted():
    found = figures({"meta_info": {"spec_verify_ct": 4}}, tokens=11)
    assert found["num_accepted_draft_tokens"] == 6 and found["mean_acceptance_length"] == 2.5 and found["draft_acceptance_rate"] is None


def test_llama_cpp_tells_no_steps():
    found = figures(usage(11) | {"timings": {"predicted_n": 11, "draft_n": 16, "draft_n_accepted": 4}})
    assert found["draft_acceptance_rate"] == 0.25 and found["mean_acceptance_length"] is None and found["num_spec_steps"] is None
    assert "counts no steps" in " ".join(served_notes(found))


def test_texts_of_both_kinds_and_of_none_are_pooled_by_their_counts():
    found = figures(vllm(DETAILED), vllm(VLLM | {"num_draft_tokens": 100}), usage(3))
    assert found["num_spec_steps"] == 47 and found["draft_acceptance_rate"] == pytest.approx(15 / 109) and found["alpha"] is None
    assert found["joint_acceptance_rate_1"] == pytest.approx((3 + 4) / 47) and found["texts_with_acceptance"] == 2
    assert "2 of 3 texts" in served_notes(found)[0]
    nothing = figures(vllm(VLLM | dict.fromkeys(("num_spec_steps", "num_draft_tokens", "num_accepted_draft_tokens"), 0) | {"acceptance_histogram": [0, 0]}))
    assert nothing["num_spec_steps"] == 0 and nothing["draft_acceptance_rate"] is None and nothing["texts_with_totals_alone"] == 0


@pytest.mark.parametrize("chunk", [
    {}, text("a"), usage(3), {"metrics": None}, {"metrics": {"speculative_decoding": None}}, {"metrics": [1]}, {"meta_info": {"id": "x"}},
    {"timings": {"predicted_n": 3}}, {"speculation": 3}, {"choices": []}, {"choices": [None]}, {"sglext": {"spec_tokens_details": []}},
    vllm({"num_spec_steps": 2, "num_draft_tokens": 3, "num_accepted_draft_tokens": 4}),
    vllm({"num_spec_steps": None, "num_draft_tokens": "3", "num_accepted_draft_tokens": True}),
    vllm({"num_spec_steps": 2, "num_draft_tokens": 3}), vllm({"num_accepted_draft_tokens": 3}), vllm({"num_draft_tokens": -1}),
])  # fmt: skip
def test_what_does_not_fit_together_is_not_reported(chunk):
    assert told_speculation(chunk, 9) == NOTHING and NOTHING.to_json() is None
    assert figures(chunk)["num_spec_steps"] == 0 and served_notes(figures(chunk)) == []


@pytest.mark.parametrize("wrong", [
    {"per_step_accepted": [1, 0, 3]}, {"per_step_accepted": [1, 0, 2, 2]}, {"per_step_drafted": None}, {"per_step_drafted": [3, 2, 1, 3]},
    {"per_step_accepted": [1, 0, 3, "1"]}, {"acceptance_histogram": [4, 0, 0, 0], "per_step_drafted": []},
])  # fmt: skip
def test_steps_that_do_not_add_up_leave_the_totals(wrong):
    found = told_speculation(vllm(DETAILED | wrong), 9)
    assert (found.steps, found.drafted, found.accepted) == (4, 9, 5) and found.rounds in ((), ((3, 1), (2, 0), (3, 2), (1, 2)))


def test_a_baseline_that_speculates_is_told():
    told = Reply("t", "stop", (0.1, 0.3), 2, 5, 9, 1, 0.0, speculation=told_speculation(vllm(DETAILED), 9)).record()
    plain = Reply("t", "stop", (0.1, 0.3), 2, 5, 9, 1, 0.0).record()
    for baseline, words in ((told, "speculation of its own"), (plain, "Acceptance is what the server reports")):
        records = [Record("a", 0, "p", (), {"method": told, "baseline": baseline})]
        found = summarise_speed(records) | served_figures(records)
        assert words in served_notes(found)[-1] and found.get("baseline_num_draft_tokens") == (9 if baseline is told else None)
