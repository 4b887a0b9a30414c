"""method=endpoint: the figures of a direct run through a server, times and counts as the field defines them, what is retried and what is
told, keys that are nowhere written, LLMPerf's own files."""

import json
import re
import time
from types import SimpleNamespace

import httpx
import pandas
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from running import BRIEF, composed, run
from served import served

from specexp.cli.check import check
from specexp.cli.jobs import build
from specexp.cli.messages import conf_directory
from specexp.datasets import Example
from specexp.datasets.prompts import LoadPrompts
from specexp.decoding.sampling import Sampling
from specexp.errors import UserError
from specexp.experiment.experiment import Experiment, no_answer
from specexp.experiment.places import Served
from specexp.experiment.sides import Failure, ServedSide, ServedTexts
from specexp.experiment.supply import read_inputs
from specexp.figures.record import Record, Repeat, SideRecord
from specexp.figures.served import request_figures
from specexp.figures.speed import summarise_speed
from specexp.peers.endpoint import Endpoint, Refused
from specexp.report import llmperf
from specexp.report.__main__ import main as report
from specexp.report.remarks import remarks
from specexp.serve.server import open_service
from specexp.tracking.records import read_records


@pytest.fixture(scope="module")
def place():
    GlobalHydra.instance().clear()
    with initialize_config_dir(conf_directory(), version_base="1.3"):
        config = compose("serve", overrides=["threads=1", "chat_template=plain"])
    check(config)
    with served(open_service(config, build(config.server), build)) as address:
        yield address


def remote(directory, place, *overrides):
    run(composed("method=endpoint", f"method.url={place.url}", *overrides), directory)
    return json.loads((directory / "summary.json").read_text()), read_records(directory)


@pytest.mark.parametrize(
    ("limit", "tokens", "more"),
    [(2, 24, ("method.concurrency=2", "baseline")), pytest.param(24, 160, (), marks=pytest.mark.slow), pytest.param(24, 160, ("method.concurrency=4", "baseline"), marks=pytest.mark.slow)],
)
def test_a_served_run_scores_as_the_direct_one(place, tmp_path, limit, tokens, more):
    """Text for text, so pass@1 exactly; with several at once, too."""
    data = (f"dataset.limit={limit}", f"max_new_tokens={tokens}")
    run(composed(*data), tmp_path / "direct")
    direct = json.loads((tmp_path / "direct/summary.json").read_text())
    texts = {record.id: record.method.text for record in read_records(tmp_path / "direct")}
    summary, records = remote(tmp_path / "served", place, *data, *(f"baseline.url={place.url}" if part == "baseline" else part for part in more))
    assert {record.id: record.method.text for record in records} == texts
    assert summary["pass_at_1"] == direct["pass_at_1"] and summary["num_tokens"] == direct["num_tokens"]
    assert summary["model_pair"] == "tiny" and summary["lossless"] is None and summary["served_method"] == "speculative"
    assert summary["served_acceptance_rate"] == pytest.approx(direct["draft_acceptance_rate"])
    if more:
        assert summary["equal_texts"] == 1.0 and summary["speedup"] > 0 and summary["baseline_tpot"] > 0
        report([str(tmp_path / "served"), "--out", str(tmp_path / "out"), "--s2"])
        assert records[0].method.text.split()[0] in (tmp_path / "out" / "sweep.html").read_text()
        assert json.loads((tmp_path / "out" / "spec_decode_all.json").read_text())["results"]
    else:
        assert "speedup" not in summary and direct["pass_at_1"] > 0


def events(*chunks, pause=0.0):
    for chunk in chunks:
        if pause:
            time.sleep(pause)
        yield f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}\n\n".encode()


def text(piece, finish=None):
    return {"choices": [{"text": piece, "finish_reason": finish}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 9}}


def endpoint(answer, **settings):
    """One that talks to `answer(request)`."""
    found = Endpoint("http://there/v1", model="m", **settings)
    found.__dict__["_client"] = httpx.Client(transport=httpx.MockTransport(answer), base_url=found.url)
    return found


def completed(answer, **settings):
    return endpoint(answer, **settings).complete("p", 9, (), False, Sampling(), 0)


def streaming(*chunks, pause=0.0):
    return lambda request: httpx.Response(200, content=events(*chunks, pause=pause))


def test_times_and_counts_are_the_fields():
    """TTFT at the first text, TPOT = (e2e - TTFT) / (n - 1), ITL between texts, tokens from usage."""
    reply = completed(streaming({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, text("a"), text("b"), text("c"), text("", "stop"), USAGE, "[DONE]", pause=0.05))
    assert (reply.text, reply.finish, reply.chunks, reply.completion_tokens) == ("abc", "stop", 3, 9)
    assert 0.09 < reply.ttft_seconds < 0.2 and 0.14 < reply.decode_seconds < 0.3  # the second event to the fifth
    figures = summarise_speed([Record("x", 0, "p", (), {"method": reply.record()})])
    assert figures["tpot"] == reply.decode_seconds / 8 and figures["itl"] == reply.decode_seconds / 2
    assert figures["e2e_latency"] == pytest.approx(reply.times[-1]) and figures["num_tokens"] == 9 and figures["tokens_per_emission"] == 4
    assert figures["mean_gamma"] is None and figures["num_spec_steps"] == 0 and figures["draft_acceptance_rate"] is None
    assert completed(streaming(text("", "stop"), USAGE)).times[0] > 0  # a text of no characters


def test_only_busy_servers_are_asked_again(monkeypatch):
    waits, codes = [], iter([429, 503, 503, 200])
    monkeypatch.setattr("specexp.peers.endpoint.time.sleep", waits.append)

    def answer(request):
        code = next(codes)
        return httpx.Response(code, headers={"retry-after": "2"} if code == 429 else {}, content=events(text("a", "stop"), USAGE) if code == 200 else b"busy")

    reply = completed(answer)
    assert reply.attempts == 4 and waits[0] == 2 and 0.5 <= waits[1] <= 1 <= waits[2] <= 2
    with pytest.raises(Refused, match="busy"):
        completed(lambda request: httpx.Response(429, content=b"busy"), retries=2)
    assert len(waits) == 5 and waits[3] < waits[4]


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (lambda request: httpx.Response(500, json={"error": {"message": "broken"}}), 500, "broken"),
        (lambda request: httpx.Response(400, json={"message": "too long"}), 400, "too long"),
        (streaming(text("a", "stop")), -1, "no usage"),
        (streaming(text("a"), USAGE), -1, "ended before"),
        (streaming({"error": "too long"}), -1, "too long"),
        (streaming({"error": {"message": "too long", "code": 413}}), 413, "too long"),
        (streaming(text("a", "stop"), {"choices": [], "usage": {"total_tokens": 3}}), -1, "sends no usage"),
        (streaming({"error": {"message": "lost", "code": "unknown"}}), -1, "lost"),
        (streaming("{"), -1, "not JSON"),
        (lambda request: (_ for _ in ()).throw(httpx.ConnectError("gone")), -1, "gone"),
    ],
)
def test_failures_are_told_with_their_code(answer, code, words):
    with pytest.raises(Refused, match=words) as caught:
        completed(answer)
    assert caught.value.code == code


def test_a_request_says_what_is_known_and_nothing_else():
    bodies = []

    def answer(request):
        bodies.append((request.url.path, json.loads(request.content)))
        return httpx.Response(200, content=events({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}, USAGE))

    endpoint(answer).complete("p", 9, (), False, Sampling(), 5)
    endpoint(answer, api="chat").complete("p", 9, ("s",), True, Sampling(), 5)
    endpoint(answer).complete("p", 9, (), False, Sampling(0.7, 5, 0.9), 5)
    usual = {"model": "m", "max_tokens": 9, "stream": True, "stream_options": {"include_usage": True}}
    assert bodies == [
        ("/v1/completions", usual | {"prompt": "p", "temperature": 0.0}),
        ("/v1/chat/completions", usual | {"messages": [{"role": "user", "content": "p"}], "temperature": 0.0, "stop": ["s"], "ignore_eos": True}),
        ("/v1/completions", usual | {"prompt": "p", "temperature": 0.7, "top_k": 5, "top_p": 0.9, "seed": 5}),
    ]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("method.url=nowhere",), "url=nowhere is no address"),
        (("method.url=http://there/v1", "baseline.url=ftp://b"), "url=ftp://b is no address"),
        (("method.url=http://me:secret@host/v1",), "put a key into OPENAI_API_KEY"),
        (("method.url=http://host:word/v1",), "url=http://host:word/v1 is no URL"),
        (("method.api=words",), "choose one of completions, chat"),
        (("method.concurrency=0",), "method.concurrency=0 does not fit"),
        (("method.url=http://127.0.0.1:9/v1",), "nothing answers at http://127.0.0.1:9/v1"),
    ],
)
def test_what_cannot_be_asked_is_told_at_once(overrides, words, tmp_path):
    with pytest.raises(UserError) as caught:
        run(composed("method=endpoint", *overrides), tmp_path)
    assert words in str(caught.value) and "secret" not in str(caught.value)


@pytest.mark.parametrize(("model", "answer", "words"), [
    ("m", httpx.Response(401), "refuses the API key .status 401.; put the right one into OPENAI_API_KEY"),
    (None, httpx.Response(404), "lists no model .status 404.; is /v1 missing"),
    (None, httpx.Response(200, json={"data": []}), "lists no model"),
    ("m", httpx.Response(200, json={"data": [{"id": "a"}, {"id": "b"}]}), "serves a, b and not m"),
])  # fmt: skip
def test_a_server_that_does_not_fit_is_told_at_once(model, answer, words):
    there = endpoint(lambda request: answer)
    there.model = model
    with pytest.raises(UserError, match=words):
        there.connect()


def test_a_remote_run_refuses_empty_prompts_and_ends_where_no_request_is_answered():
    there = endpoint(lambda request: httpx.Response(500, content=b"broken."))
    experiment = Experiment({"method": ServedSide(there, Sampling())}, ServedTexts(LoadPrompts()), 4)
    with pytest.raises(UserError, match="the prompt of a is empty"):
        experiment.reader.prompts([Example("a", "")])
    with pytest.raises(UserError, match=r"http://there/v1 answered with 500 \(broken\)"):
        experiment.warm_up(["one"])
    with pytest.raises(UserError, match=r"no prompt was answered: 1 requests failed, the first, to http://there/v1, with 500 \(broken\)"):
        raise no_answer([Failure("method", "a", 500, "broken.")], there.url)


def test_a_second_url_goes_with_an_endpoint_only(tmp_path):
    with pytest.raises(UserError, match="goes with method=endpoint only"):
        run(composed("baseline.url=http://there/v1"), tmp_path)


def test_a_refused_request_stops_the_run_or_is_counted(place, tmp_path, monkeypatch):
    complete = Endpoint.complete

    def failing(self, prompt, *arguments):
        if prompt == "two":
            raise Refused(500, "broken.")
        return complete(self, prompt, *arguments)

    (tmp_path / "three.txt").write_text("one\ntwo\nthree\n")
    data = ("dataset=prompts", f"dataset.path={tmp_path}/three.txt", "dataset.limit=3", "max_new_tokens=4", "warmup=0")
    monkeypatch.setattr(Endpoint, "complete", failing)
    with pytest.raises(UserError, match=r"answered to prompts/2 with 500 \(broken\); method.on_error=count"):
        remote(tmp_path / "a", place, *data)
    assert [record.id for record in read_records(tmp_path / "a")] == ["prompts/1"]
    summary, _ = remote(tmp_path / "b", place, *data, "method.on_error=count", "warmup=2")  # also of the warm-up
    assert summary["num_examples"] == 2 and summary["num_errors"] == 1
    assert any("1 of the requests were refused for good" in remark.text for remark in remarks(summary))
    monkeypatch.setattr(Endpoint, "complete", complete)
    summary, _ = remote(tmp_path / "a", place, *data)  # goes on where it stopped
    assert summary["num_examples"] == 3


def test_a_chunk_without_an_error_may_say_so():
    assert completed(streaming(text("a", "stop") | {"error": None}, USAGE)).text == "a"


def test_a_baseline_that_refuses_every_prompt_is_told(place, tmp_path, monkeypatch):
    complete = Endpoint.complete

    def failing(self, prompt, max_new_tokens, *arguments):
        if self.api_key_env == "BASELINE_API_KEY":
            raise Refused(400, "too long.")
        return complete(self, prompt, max_new_tokens, *arguments)

    monkeypatch.setattr(Endpoint, "complete", failing)
    settings = (f"baseline.url={place.url}", "method.on_error=count", "dataset.limit=1", "max_new_tokens=4", "warmup=0")
    with pytest.raises(UserError, match=r"no prompt was answered: 1 requests failed, the first, to http.*, with 400 \(too long\)"):
        remote(tmp_path, place, *settings)


def test_a_key_goes_to_its_own_server_alone(monkeypatch, place):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one")
    config = composed("method=endpoint", f"method.url={place.url}", f"baseline.url={place.url}")
    check(config)
    endpoints = Served(config, read_inputs(config, build)).endpoints
    assert "authorization" in endpoints["method"]._client.headers and "authorization" not in endpoints["baseline"]._client.headers


def test_scorers_are_asked_by_one_thread(place, tmp_path):
    """ROUGE's keeps what it is asked between two calls."""
    summary, records = remote(tmp_path, place, "dataset=microsum", "dataset.limit=4", "max_new_tokens=4", "method.concurrency=4", "warmup=0")
    assert len(records) == 4 and summary["rouge1"] >= 0


def test_the_key_is_sent_and_nowhere_written(place, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    caplog.set_level("DEBUG")
    (tmp_path / "one.txt").write_text("one\n")
    remote(tmp_path / "run", place, "dataset=prompts", f"dataset.path={tmp_path}/one.txt", "max_new_tokens=4")
    written = "".join(file.read_text() for file in (tmp_path / "run").rglob("*") if file.is_file())
    assert "very-secret" not in written + caplog.text and place.url in written
    sent = Endpoint(place.url)._client.headers
    assert sent["authorization"] == "Bearer sk-very-secret"


def test_text_ends_before_a_stop_that_the_server_kept():
    dataset = SimpleNamespace(stop_strings=("\nclass", "\ndef"), score=lambda example, text: {"seen": text})
    reply = completed(streaming(text("ab\ndef c\nclass", "stop"), USAGE))
    scored = ServedTexts(dataset).read(None, "p", reply)
    assert scored["text"] == "ab" and scored["score"] == {"seen": "ab"}


def test_a_load_run_leaves_llmperfs_files(place, tmp_path):
    overrides = [part for part in BRIEF if "limit" not in part and "max_new" not in part]
    GlobalHydra.instance().clear()
    with initialize_config_dir(conf_directory(), version_base="1.3"):
        sizes = ("dataset.requests=6", "dataset.mean_input_tokens=60", "dataset.stddev_input_tokens=20", "max_new_tokens=8", "method.concurrency=3")
        config = compose("config", overrides=[*overrides, "experiment=load", f"method.url={place.url}", *sizes])
    run(config, tmp_path)
    summary = json.loads((tmp_path / "tiny_60_8_summary.json").read_text())
    requests = json.loads((tmp_path / "tiny_60_8_individual_responses.json").read_text())
    assert len(requests) == summary["results_num_completed_requests"] == summary["results_num_requests_started"] == 6
    assert summary["results_number_output_tokens_max"] <= 8 and summary["num_concurrent_requests"] == 3
    assert summary["results_error_rate"] == 0 and summary["results_error_code_frequency"] == "{}" and summary["version"] == "2023-08-31"
    assert summary["results_mean_output_throughput_token_per_s"] > 0 and summary["name"] == "tiny_60_8_summary"


def record(index, decode_seconds=1.0):
    repeat = Repeat(10 + index, 1, 0, 0, 0.1 * index, decode_seconds)
    side = SideRecord((repeat,), "", "stop", num_tokens=10 + index, prompt_tokens=50 * index, began=100.0 + index)
    return Record(str(index), 0, "p", (), {"method": side})


def test_llmperfs_quantiles_are_those_of_pandas():
    records, errors = [record(index) for index in range(1, 6)], [llmperf.failed(429, "busy"), llmperf.failed(429, "busy"), llmperf.failed(-1, "gone")]
    told = llmperf.summary(records, errors, {"model": "org/a model", "mean_input_tokens": 550, "mean_output_tokens": 150})
    frame = pandas.DataFrame([llmperf.individual(one) for one in records])
    for key in llmperf.SUMMARISED:
        series = frame[key]
        for quantile in (0.25, 0.5, 0.75, 0.9, 0.95, 0.99):
            assert told[f"results_{key}_quantiles_p{int(quantile * 100)}"] == pytest.approx(series.quantile(quantile))
        assert [told[f"results_{key}_{name}"] for name in ("mean", "min", "max", "stddev")] == pytest.approx([series.mean(), series.min(), series.max(), series.std()])
    assert told["results_error_code_frequency"] == "{429: 2, -1: 1}" and told["results_number_errors"] == 3 and told["results_error_rate"] == 3 / 8
    assert told["name"] == "org-a-model_550_150_summary"
    assert frame["inter_token_latency_s"][0] == pytest.approx(1.1 / 11) and frame["number_total_tokens"][0] == 61


def test_pauses_between_sessions_are_no_time_of_the_load():
    assert llmperf.busy_seconds([record(0, decode_seconds=2.0), record(1), record(50)]) == pytest.approx(1 + 1.1 + 6.0, abs=0.2)


def test_a_load_has_its_rate_and_percentiles():
    records = [record(index) for index in range(1, 6)]
    found = request_figures(records)
    seconds = sorted(each.method.request_seconds for each in records)
    assert found["requests_per_second"] == pytest.approx(5 / llmperf.busy_seconds(records))
    assert found["e2e_percentile_50"] == pytest.approx(seconds[2]) and seconds[3] < found["e2e_percentile_95"] <= found["e2e_percentile_99"] <= seconds[4]
    assert set(found) == {"requests_per_second", *(f"{name}_percentile_{q}" for name in ("ttft", "e2e") for q in (50, 95, 99))}


def test_load_prompts_have_the_lengths_that_were_asked_for():
    prompts = [example.prompt for example in LoadPrompts(200, 200, 40, 30).examples()]
    words = [len(prompt.split()) for prompt in prompts]
    assert abs(sum(words) / 200 - 150) < 6 and 20 < pandas.Series(words).std() < 40 and len(set(prompts)) == 200
    assert prompts == [example.prompt for example in LoadPrompts(200, 200, 40, 30).examples()]
    assert all(len(example.prompt.split()) >= 15 for example in LoadPrompts(20, 10, 5, 30).examples())


@pytest.mark.parametrize("lengths", [{"mean_input_tokens": 0}, {"stddev_input_tokens": -1}])
def test_lengths_that_no_load_prompt_has_are_refused(lengths):
    with pytest.raises(UserError, match="describe no lengths"):
        LoadPrompts(**lengths)


def test_a_conversation_goes_to_the_chat_api_as_messages(place, tmp_path):
    """A raw prompt is one user message there, as ever; completions take no messages, and what the server renders is its own affair."""
    data = ("method.api=chat", "max_new_tokens=4", "dataset.limit=1")
    summary, [raw] = remote(tmp_path / "raw", place, *data)
    assert summary["prompt_format"] == "raw" and raw.prompt.startswith("def ")
    asked = (*data, "dataset.prompt_format=chat", "dataset.system_prompt=Be brief.", "dataset.instruction='{prompt}'")
    summary, [chat] = remote(tmp_path / "chat", place, *asked)
    assert summary["prompt_format"] == "chat" and chat.prompt == f"system: Be brief.\n\nuser: {raw.prompt.strip()}"
    assert chat.method.prompt_tokens > raw.method.prompt_tokens
    for overrides, words in (
        (("method.api=completions", "dataset.prompt_format=chat"), "dataset.prompt_format=chat does not go with method.api=completions"),
        (("chat_template=plain",), "chat_template=plain would be ignored, as the server applies its model's own"),
        (("chat_template_args={enable_thinking: false}",), "chat_template_args={'enable_thinking': False} does not go with method.api=completions"),
        (("method.api=chat", "chat_template_args={a: 1}", "method.body={chat_template_kwargs: {a: 2}}"), "are the same field: leave out one of them"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            remote(tmp_path / "refused", place, *overrides)


def test_the_templates_arguments_are_sent_to_every_server():
    config = composed("method=endpoint", "method.api=chat", "chat_template_args={enable_thinking: false}", "method.body={n_probs: 1}", "baseline.url=http://localhost:1/v1")
    check(config)
    endpoints = Served(config, read_inputs(config, build)).endpoints
    assert [endpoint.body for endpoint in endpoints.values()] == [{"n_probs": 1, "chat_template_kwargs": {"enable_thinking": False}}] * 2
