"""Whole runs against a server whose replies are chosen by name: what stands in the summary, in the records and below the table."""

import contextlib
import json

import pytest
from running import composed, run
from streams import engine

from specexp.decoding.sampling import Sampling
from specexp.errors import UserError
from specexp.figures.speed import summarise_speed
from specexp.peers.endpoint import Endpoint
from specexp.report.__main__ import main as report
from specexp.tracking.records import read_records


def served(directory, method, baseline=None, *overrides, count=2):
    """(summary, records, requests) of a run over `count` prompts."""
    (directory / "prompts.txt").write_text("\n".join(f"prompt {n}" for n in range(count)) + "\n")
    with contextlib.ExitStack() as held:
        places = [held.enter_context(engine(mode)) for mode in (method, baseline) if mode]
        urls = [f"{side}.url={place.url}" for side, place in zip(("method", "baseline"), places, strict=False)]
        data = ("dataset=prompts", f"dataset.path={directory}/prompts.txt", f"dataset.limit={count}", "warmup=0")
        run(composed("method=endpoint", *urls, *data, *overrides), directory / "run")
        return json.loads((directory / "run" / "summary.json").read_text()), read_records(directory / "run"), places[0].asked


@pytest.mark.parametrize("mode", ["buffered", "one chunk"])
@pytest.mark.parametrize("side", ["method", "baseline"])
def test_a_stream_that_is_held_up_gives_no_decode_speed(tmp_path, capsys, mode, side):
    sides = {"method": "steady", "baseline": "steady"} | {side: mode}
    summary, _, _ = served(tmp_path, sides["method"], sides["baseline"])
    prefix = {"method": "", "baseline": "baseline_"}[side]
    assert summary[f"{prefix}texts_in_one_piece"] == 2 and summary[f"{prefix}tpot"] is None and summary[f"{prefix}output_tps_per_user"] is None
    assert summary["speedup"] == pytest.approx(summary["e2e_speedup"])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"2 of 2 texts of the {side} arrived in one piece" in shown and "Speedups therefore compare whole requests" in shown
    report([str(tmp_path)])
    assert "arrived in one piece" in " ".join(capsys.readouterr().out.split())


def test_a_load_of_requests_at_once_is_no_faster_for_being_held_up(tmp_path):
    summary, _, _ = served(tmp_path, "buffered", None, "method.concurrency=4", count=8)
    assert summary["texts_in_one_piece"] == 8 and summary["tpot"] is None and summary["output_tps"] > 0 and summary["num_tokens"] == 80


def test_reasoning_is_in_the_records_and_not_in_the_answer(tmp_path, capsys):
    summary, records, _ = served(tmp_path, "reasoning", "only reasoning", "method.api=chat")
    assert records[0].method.text == "answer" and records[0].method.reasoning.startswith("thought 0 ") and summary["num_tokens"] == 14
    assert summary["texts_without_answer"] == 0 and summary["baseline_texts_without_answer"] == 2
    assert "2 of 2 texts of the baseline hold reasoning and no answer" in " ".join(capsys.readouterr().out.split())


def test_lines_that_only_texts_have_do_not_stop_a_run(tmp_path):
    assert served(tmp_path, "raw unicode")[1][0].method.text == "one\u2028two\u2029three\u0085four"


def test_acceptance_that_a_server_reports_is_in_the_usual_columns(tmp_path, capsys):
    summary, records, _ = served(tmp_path, "vllm", "steady")
    assert summary["mean_acceptance_length"] == 1 + 10 / 8 and summary["num_spec_steps"] == 8 and summary["acceptance_told_by"] == "vLLM"
    assert "served_acceptance_rate" not in summary and records[0].method.rounds == [[3, 0], [3, 1], [3, 1], [3, 3]]
    assert "mean acceptance length │ │ 2.25" in " ".join(capsys.readouterr().out.split())
    report(["explain", str(tmp_path / "run")])
    report([str(tmp_path), "--s2"])


def test_totals_alone_are_told_below_the_table(tmp_path, capsys):
    summary, records, asked = served(tmp_path, "sglang", None, "method.body={return_spec_tokens_details:true}")
    assert summary["mean_acceptance_length"] == 1 + 10 / 8 and summary["draft_acceptance_rate"] == 10 / 24 and summary["texts_with_totals_alone"] == 2
    assert summary == summary | summarise_speed(records) and asked[0][0]["return_spec_tokens_details"] is True
    shown = " ".join(capsys.readouterr().out.split())
    assert "Acceptance is what the server reports (SGLang) for 2 of 2 texts, in totals" in shown and "counts the prefill's token too" in shown
    report(["explain", str(tmp_path / "run")])


@pytest.mark.parametrize(("mode", "words"), [
    ("error in JSON", r"with 500 \(the engine has died\)"), ("no stream", r"with -1 \(the reply is no stream \(application/json\), so nothing can be timed; it begins"),
])  # fmt: skip
def test_a_run_ends_with_the_servers_own_words(tmp_path, mode, words):
    with pytest.raises(UserError, match=words):
        served(tmp_path, mode)


def test_further_fields_are_sent_and_others_left_out(tmp_path):
    overrides = ("method.api=chat", "method.max_tokens_field=max_completion_tokens", "sampling=nucleus", "method.omit=[top_k,seed,top_p]")
    body = "method.body={chat_template_kwargs:{enable_thinking:false},stream_options:{continuous_usage_stats:true},logit_bias:{5:-1.5},stop_token_ids:[1,2]}"
    _, _, asked = served(tmp_path, "steady", None, *overrides, body, count=1)
    assert asked[0][0] == {
        "model": "m", "messages": [{"role": "user", "content": "prompt 0"}], "max_completion_tokens": 8, "temperature": 1.0, "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True}, "chat_template_kwargs": {"enable_thinking": False},
        "logit_bias": {"5": -1.5}, "stop_token_ids": [1, 2],
    }  # fmt: skip
    (tmp_path / "another").mkdir()
    _, _, asked = served(tmp_path / "another", "steady", None, "method.omit=[temperature,stream_options]", count=1)
    assert set(asked[0][0]) == {"model", "prompt", "max_tokens", "stream"}


@pytest.mark.parametrize(("override", "words"), [
    ("method.body={temperature:0.5}", "method.body.temperature is decided by sampling.temperature; leave it out"),
    ("method.body={stream:false}", "method.body.stream is decided by this method"), ("method.body={max_tokens:5}", "is decided by max_new_tokens"),
    ("method.body=5", "method.body=5 does not fit; give names, each with a value .* or null"),
    ("method.body={stream_options:5}", "are no fields of a JSON object"), ("method.body={bias:nan}", "are no fields of a JSON object"),
    ("method.omit=[model]", "method.omit=model cannot be left out; choose of temperature, top_p"), ("method.omit=[sed]", "method.omit=sed cannot be left out"),
    ("method.omit=seed", "method.omit=seed does not fit; give a list"), ("method.max_tokens_field=tokens", "choose one of max_tokens, max_completion_tokens"),
    ("'method.api_key_env=sk-1'", "method.api_key_env is no name of an environment variable"),
])  # fmt: skip
def test_fields_that_cannot_be_sent_or_left_out_are_told_at_once(tmp_path, override, words):
    with pytest.raises(UserError, match=words):
        run(composed("method=endpoint", override.strip("'")), tmp_path)


def test_what_is_sent_further_is_not_left_out():
    with pytest.raises(UserError, match="method.omit=stream_options cannot be left out; .* without those of body"):
        Endpoint("http://there/v1", body={"stream_options": {}}, omit=["stream_options"])


def test_half_a_character_in_a_prompt_is_sent_as_it_is():
    with engine("steady") as place:
        assert Endpoint(place.url, model="m").complete("a\ud83d", 9, (), False, Sampling(), 0).chunks == 10
        assert place.asked[0][0]["prompt"] == "a\ud83d"
