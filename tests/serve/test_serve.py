"""The server through OpenAI's own client: text, streams, usage, errors, cancelling, queueing; the earlier study's /predict; metrics."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import openai
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from openai.types import completion_create_params as completion_params
from openai.types.chat import completion_create_params as chat_params
from served import served

from specexp.cli.check import check
from specexp.cli.jobs import build
from specexp.cli.messages import conf_directory
from specexp.decoding.sampling import Sampling
from specexp.errors import UserError
from specexp.experiment.generation import generate
from specexp.live.engine import Engine
from specexp.runners.runner import ModelRunner
from specexp.serve.protocol import ChatRequest, CompletionRequest
from specexp.serve.server import listening, open_service
from specexp.serve.service import ServerSettings, Service
from specexp.serve.worker import FairQueue, Full, Metrics
from specexp.text import Prompter, with_template
from specexp.text.stopping import Stopping

PROMPT = "def add(a, b):\n"
LONG = {"max_tokens": 4000, "extra_body": {"ignore_eos": True}}


def opened(*overrides):
    GlobalHydra.instance().clear()
    with initialize_config_dir(conf_directory(), version_base="1.3"):
        config = compose("serve", overrides=["threads=1", "chat_template=plain", "max_new_tokens=24", *overrides])
    check(config)
    return open_service(config, build(config.server), build)


@pytest.fixture(scope="module")
def service():
    return opened()


@pytest.fixture(scope="module")
def place(service):
    with served(service, queue=20, body_bytes=20000) as address:
        yield address


@pytest.fixture(scope="module")
def client(place):
    with openai.OpenAI(base_url=place.url, api_key="none", max_retries=0) as client:
        yield client


def offline(service, ids, tokens, sampling=Sampling(), seed=(0,), stops=()):
    """The same method and seed through the experiment's own door."""
    stopping = Stopping(service.engine.tokenizer, service.engine.stop_ids, stops)
    ids_out = generate(service.decoder, ids, tokens, stopping, sampling, seed).token_ids
    return stopping.text(ids, ids_out), ids_out


def test_a_completion_is_the_offline_text_with_usage_and_speculation(client, service):
    ids = service.engine.ids(PROMPT)
    text, out = offline(service, ids, 20)
    answer = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=20)
    assert answer.choices[0].text == text and answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(ids), len(out))
    told = answer.speculation
    assert told["method"] == "speculative" and 0 < told["num_accepted_draft_tokens"] <= told["num_draft_tokens"]
    assert told["mean_acceptance_length"] == 1 + told["num_accepted_draft_tokens"] / told["num_spec_steps"]
    assert client.completions.create(model="tiny", prompt=ids, max_tokens=20).choices[0].text == text


def test_a_stream_is_the_same_text_in_pieces(client, service):
    text, out = offline(service, service.engine.ids(PROMPT), 20)
    chunks = list(client.completions.create(model="tiny", prompt=PROMPT, max_tokens=20, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].text for chunk in chunks if chunk.choices]
    assert "".join(pieces) == text and len([piece for piece in pieces if piece]) > 3
    assert chunks[-2].choices[0].finish_reason == "length" and chunks[-2].speculation["num_spec_steps"] > 0
    assert chunks[-1].usage.completion_tokens == len(out) and chunks[-1].choices == []
    counted = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=20, stream=True, extra_body={"stream_options": {"continuous_usage_stats": True}})
    so_far = [chunk.usage.completion_tokens for chunk in counted if chunk.usage]
    assert so_far == sorted(set(so_far)) and so_far[0] == 1 and so_far[-1] == len(out)


def test_chat_streams_and_does_not(client, service):
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": [{"type": "text", "text": PROMPT}]}]
    text, _ = offline(service, service.engine.ids(PROMPT), 20)
    whole = client.chat.completions.create(model="tiny", messages=messages, max_completion_tokens=20)
    assert whole.choices[0].message.content == text and whole.choices[0].message.role == "assistant"
    chunks = list(client.chat.completions.create(model="tiny", messages=messages, max_tokens=20, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant" and "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text


def test_sampling_and_seed_are_the_requests_own(client, service):
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 20, "temperature": 1.2, "top_p": 0.9, "extra_body": {"top_k": 50}}
    text, _ = offline(service, service.engine.ids(PROMPT), 20, Sampling(1.2, 50, 0.9), (7,))
    assert client.completions.create(seed=7, **asked).choices[0].text == text
    assert len({client.completions.create(**asked).choices[0].text for _ in range(4)}) > 1  # no seed: drawn anew


def test_a_new_temperature_builds_nothing(client, monkeypatch):
    monkeypatch.setattr(ModelRunner, "__init__", lambda *args, **kwargs: pytest.fail("a runner was built"))
    for temperature in (0.31, 0.32, 0):
        client.completions.create(model="tiny", prompt=PROMPT, max_tokens=4, temperature=temperature)


def test_stop_strings_end_the_text_before_them(client, service):
    whole, _ = offline(service, service.engine.ids(PROMPT), 20)
    stop = whole[10:13]
    answer = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=20, stop=[stop, "never"])
    assert answer.choices[0].text == whole[: whole.find(stop)] and answer.choices[0].finish_reason == "stop"
    chunks = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=20, stop=stop, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole[: whole.find(stop)]


def test_models_health_and_predict(client, place, service):
    assert [model.id for model in client.models.list()] == ["tiny"] and client.models.retrieve("tiny").id == "tiny"
    assert httpx.get(f"{place.root}/health").json() == {"status": "ok"}
    told = httpx.post(f"{place.root}/predict", json={"prompt": PROMPT}).json()
    assert told.startswith(PROMPT) and len(service.engine.ids(told)) > len(service.engine.ids(PROMPT)) + 20
    for body in (b"prompt", b'{"text": "x"}', b"[]"):
        wrong = httpx.post(f"{place.root}/predict", content=body, headers={"content-type": "application/json"})
        assert wrong.status_code == 400 and set(wrong.json()) == {"error"}


WRONG = [
    ({"model": "other", "prompt": "x"}, 404, "model other is not served"),
    ({"prompt": ""}, 400, "the prompt is empty"),
    ({"prompt": []}, 400, "the prompt is empty"),
    ({"prompt": [1, 99999]}, 400, "the id 99999"),
    ({"prompt": "x", "max_tokens": 10**6}, 400, "do not fit the models' context"),
    ({"prompt": "x", "max_tokens": 0}, 422, "max_tokens"),
    ({"prompt": "x", "temperature": -1}, 422, "temperature"),
    ({"prompt": "x", "top_p": 0}, 422, "top_p"),
    ({"prompt": "x", "n": 2}, 422, "n:"),
    ({"prompt": "x", "frequency_penalty": 0.5}, 422, "frequency_penalty"),
    ({"prompt": "x", "stop": [""]}, 422, "stop"),
    ({"prompt": "x", "max_token": 5}, 422, "max_token"),
    ({"messages": "x"}, 422, "messages"),
    ({}, 422, "prompt"),
    (b'{"prompt": "x", "temperature": 1e999}', 422, "temperature"),
    (b"{not json", 400, "not JSON"),
    (b"x" * 30000, 413, "more than 20000 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "words"), WRONG, ids=[f"{status}-{words}" for _, status, words in WRONG])
def test_what_cannot_be_done_is_refused_with_the_right_status(place, body, status, words):
    kind = "chat/completions" if isinstance(body, dict) and "messages" in body else "completions"
    sent = {"content": body, "headers": {"content-type": "application/json"}} if isinstance(body, bytes) else {"json": body}
    answer = httpx.post(f"{place.url}/{kind}", **sent)
    assert answer.status_code == status and words in answer.json()["error"]["message"], answer.text


def test_a_long_body_is_refused_also_when_its_length_is_not_announced(place):
    answer = httpx.post(f"{place.url}/completions", content=(b"x" * 10000 for _ in range(3)), headers={"content-type": "application/json"})
    assert answer.status_code == 413


HALF = "\ud83d"  # of an emoji
HALVES = [
    ("completions", {"prompt": HALF}, "prompt has half a character ('\\ud83d' at place 0)"),
    ("completions", {"prompt": ["x" + HALF]}, "prompt.0 has half a character ('\\ud83d' at place 1)"),
    ("completions", {"prompt": "x", "stop": HALF}, "stop has half"),
    ("completions", {"prompt": "x", "stop": ["a", HALF]}, "stop.1 has half"),
    ("completions", {"prompt": "x", "model": HALF}, "model has half"),
    ("completions", {"prompt": "x", "user": HALF}, "user has half"),
    ("completions", {"prompt": "x", HALF: 1}, "the body has half"),
    ("chat/completions", {"messages": [{"role": "user", "content": HALF}]}, "messages.0.content has half"),
    ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": HALF}]}]}, "messages.0.content.0.text has half"),
    ("chat/completions", {"messages": [{"role": HALF, "content": "x"}]}, "messages.0.role has half"),
]


@pytest.mark.parametrize(("kind", "body", "words"), HALVES, ids=range(len(HALVES)))
def test_half_a_character_is_the_clients_mistake(place, kind, body, words):
    for stream in (False, True):
        answer = httpx.post(f"{place.url}/{kind}", content=json.dumps(body | {"stream": stream}), headers={"content-type": "application/json"})
        assert answer.status_code == 400 and answer.json()["error"]["message"].startswith(words), answer.text
    assert httpx.post(f"{place.root}/predict", content=json.dumps({"prompt": HALF}), headers={"content-type": "application/json"}).status_code == 400


def test_a_template_that_writes_half_a_character_is_told(service, tmp_path):
    (tmp_path / "template.jinja").write_text("{{ '\\ud83d' }}")
    with pytest.raises(UserError, match="the conversation has half a character"):
        Engine(Prompter(with_template(service.engine.tokenizer, str(tmp_path / "template.jinja"))), ()).render([{"role": "user", "content": "x"}])
    (tmp_path / "template.jinja").write_bytes("{{ messages[0].content }}é".encode("utf-8-sig"))
    rendered = Engine(Prompter(with_template(service.engine.tokenizer, str(tmp_path / "template.jinja"))), ()).render([{"role": "user", "content": "x"}])
    assert rendered == service.engine.ids("xé")
    (tmp_path / "template.jinja").write_bytes("é".encode("latin-1"))
    with pytest.raises(UserError, match=r"chat_template=.*template.jinja cannot be read \(line 1 has the byte 0xe9"):
        with_template(service.engine.tokenizer, str(tmp_path / "template.jinja"))


@pytest.mark.parametrize("messages", [[("user", "")], [("system", ""), ("user", "")], [("user", []), ("assistant", "")]])
@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_without_any_text_is_refused(place, messages, stream):
    body = {"messages": [{"role": role, "content": content} for role, content in messages], "stream": stream}
    answer = httpx.post(f"{place.url}/chat/completions", json=body)
    assert answer.status_code == 400 and answer.json()["error"]["message"].startswith("the prompt is empty")


def test_a_prompt_may_be_a_list_of_one(place, client, service):
    ids = service.engine.ids(PROMPT)
    texts = {client.completions.create(model="tiny", prompt=prompt, max_tokens=8).choices[0].text for prompt in (PROMPT, [PROMPT], ids, [ids])}
    assert len(texts) == 1
    for prompt, status in (([[]], 400), ([[10**6]], 400), ([ids, ids], 422), ([PROMPT, PROMPT], 422), ([ids, PROMPT], 422), ([["a"]], 422), ([], 400), ([""], 400)):
        answer = httpx.post(f"{place.url}/completions", json={"prompt": prompt})
        assert answer.status_code == status and "prompt" in answer.json()["error"]["message"], answer.text


MEANS_NOTHING = {
    "response_format": {"type": "text"}, "tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "functions": [], "store": False,
    "metadata": {}, "top_logprobs": 0, "logprobs": False, "repetition_penalty": 1.0, "min_p": 0, "min_tokens": 0, "n": 1, "stop": None,
    "frequency_penalty": 0.0, "presence_penalty": 0, "logit_bias": {}, "service_tier": "auto", "modalities": ["text"], "best_of": 1,
    "use_beam_search": False, "stop_token_ids": [], "skip_special_tokens": True, "length_penalty": 1, "chat_template_kwargs": {},
    "reasoning_effort": None, "stream_options": None, "user": "me", "safety_identifier": "me", "add_generation_prompt": True,
}  # fmt: skip
MEANS_SOMETHING = {
    "response_format": {"type": "json_object"}, "tools": [{"type": "function"}], "tool_choice": "required", "functions": [{}], "store": True,
    "metadata": {"a": "b"}, "top_logprobs": 3, "logprobs": True, "repetition_penalty": 1.1, "min_p": 0.1, "min_tokens": 2, "n": True,
    "frequency_penalty": 0.1, "logit_bias": {"5": 1}, "modalities": ["text", "audio"], "stop_token_ids": [3], "skip_special_tokens": False,
    "chat_template_kwargs": {"a": 1}, "reasoning_effort": "high", "audio": {}, "echo": True, "seeds": None,
}  # fmt: skip


def test_a_field_that_asks_for_nothing_changes_nothing(place):
    plain = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 8}
    answers = [httpx.post(f"{place.url}/chat/completions", json=plain | more) for more in ({}, MEANS_NOTHING, dict.fromkeys(MEANS_NOTHING))]
    assert [answer.status_code for answer in answers] == [200] * 3, [answer.text for answer in answers]
    assert len({answer.json()["choices"][0]["message"]["content"] for answer in answers}) == 1


@pytest.mark.parametrize("name", MEANS_SOMETHING)
def test_a_field_that_asks_for_something_is_refused_by_its_name(place, name):
    answer = httpx.post(f"{place.url}/chat/completions", json={"messages": [{"role": "user", "content": "x"}], name: MEANS_SOMETHING[name]})
    error = answer.json()["error"]
    assert answer.status_code == 422 and error["param"] == name and error["message"].startswith(f"{name}: ") and "Value error" not in answer.text


def test_every_field_of_the_official_client_is_known():
    for form, params in ((ChatRequest, chat_params), (CompletionRequest, completion_params)):
        assert set(params.CompletionCreateParamsBase.__annotations__) <= set(form.model_fields)


def test_an_answer_can_be_sent_back_as_it_came(client):
    messages = [{"role": "user", "content": PROMPT}]
    first = client.chat.completions.create(model="tiny", messages=messages, max_tokens=8).choices[0].message
    for form in (first, first.model_dump(), first.model_dump(exclude_none=True), first.model_dump() | {"annotations": [], "tool_calls": [], "reasoning_content": None}):
        client.chat.completions.create(model="tiny", messages=[*messages, form, *messages], max_tokens=4)
    with pytest.raises(openai.UnprocessableEntityError, match="messages.1.tool_calls: this server does not do that"):
        client.chat.completions.create(model="tiny", messages=[*messages, first.model_dump() | {"tool_calls": [{"id": "x"}]}])


def test_a_name_of_a_message_reaches_the_template():
    assert ChatRequest(messages=[{"role": "user", "content": "x", "name": "me"}]).messages[0].plain() == {"role": "user", "content": "x", "name": "me"}


PAGES = [  # headers of a browser on some page, and of other programs
    ({"origin": "http://evil.example"}, 403), ({"origin": "null"}, 403), ({"origin": "http://localhost:3000"}, 403),
    ({"host": "evil.example:8000"}, 403), ({"host": "evil.example", "origin": "http://evil.example"}, 403), ({"host": "[::1"}, 403),
    ({"host": "localhost:8000"}, 200), ({"host": "[::1]:8000"}, 200), ({"host": "LOCALHOST"}, 200), ({}, 200),
    ({"host": "localhost:8000", "origin": "http://localhost:8000"}, 200),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "status"), PAGES, ids=[str(headers) for headers, _ in PAGES])
def test_a_web_page_cannot_use_a_server_without_a_key(place, headers, status, monkeypatch):
    monkeypatch.delenv("SPECEXP_API_KEY", raising=False)
    kind = {"content-type": "application/json"}
    assert httpx.post(f"{place.url}/completions", json={"prompt": "x", "max_tokens": 1}, headers=headers).status_code == status
    assert httpx.post(f"{place.root}/predict", content=json.dumps({"prompt": PROMPT}), headers=headers | kind).status_code == status
    answer = httpx.get(f"{place.url}/models", headers=headers)
    assert answer.status_code == status and (status == 200 or "this server asks for no key; start it with SPECEXP_API_KEY" in answer.text)
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert httpx.options(f"{place.url}/completions", headers=headers | {"access-control-request-method": "POST"}).status_code == 405


@pytest.mark.parametrize("path", ["v1/completions", "v1/chat/completions", "predict"])
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonp", None])
def test_a_body_of_another_kind_is_refused(place, path, kind):
    body = json.dumps({"prompt": "x"} if "chat" not in path else {"messages": [{"role": "user", "content": "x"}]})
    answer = httpx.post(f"{place.root}/{path}", content=body, headers={} if kind is None else {"content-type": kind})
    assert answer.status_code == 415 and "send application/json" in answer.json()["error"]["message"]
    assert httpx.post(f"{place.root}/{path}", content=body, headers={"content-type": "Application/JSON; charset=utf-8"}).status_code == 200


def test_the_official_client_knows_our_errors(client):
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client.completions.create(model="other", prompt="x")
    with pytest.raises(openai.BadRequestError, match="do not fit"):
        client.completions.create(model="tiny", prompt="x", max_tokens=10**6, stream=True)
    with pytest.raises(openai.UnprocessableEntityError, match="Extra inputs"):
        client.completions.create(model="tiny", prompt="x", extra_body={"beams": 3})


def test_a_key_is_asked_for_where_one_is_set(service, monkeypatch):
    monkeypatch.setenv("SPECEXP_API_KEY", "right\n")  # as a file's content has it
    with served(service) as address:
        for key, status in (("Bearer wrong", 401), ("Bearer righ", 401), ("Basic right", 401), ("Bearer", 401), ("Bearer é", 401),
                            ("Bearer right", 200), ("bearer right", 200), ("BEARER  right", 200)):
            answer = httpx.get(f"{address.url}/models", headers={"Authorization": key.encode("latin-1"), "Origin": "http://a.page"})
            assert answer.status_code == status
        assert httpx.post(f"{address.url}/completions", json={"prompt": "x"}).status_code == 401
        assert httpx.get(f"{address.root}/health").status_code == 200


@pytest.mark.parametrize("broken", ["Metrics.finished", "Service.speculation", "Service.decode"])
def test_a_request_whose_bookkeeping_fails_gets_500_and_the_next_one_is_served(service, monkeypatch, broken):
    def fail(*args):
        raise ZeroDivisionError("a ratio of nothing")

    kind, name = broken.split(".")
    failing = [True]
    whole = getattr({"Metrics": Metrics, "Service": Service}[kind], name)
    monkeypatch.setattr({"Metrics": Metrics, "Service": Service}[kind], name, lambda *args: fail() if failing[0] else whole(*args))
    body = {"prompt": PROMPT, "max_tokens": 8}
    with served(service) as address:
        for _ in range(2):
            answer = httpx.post(f"{address.url}/completions", json=body)
            assert answer.status_code == 500 and "the server's log tells more" in answer.json()["error"]["message"]
        lines = httpx.post(f"{address.url}/completions", json=body | {"stream": True}).text
        assert "the server's log tells more" in lines and "[DONE]" not in lines
        failing[0] = False
        assert httpx.post(f"{address.url}/completions", json=body).status_code == 200
        assert httpx.get(f"{address.root}/health").status_code == 200


def test_a_page_that_fails_is_told_in_the_same_form(service):
    with served(service) as address:
        address.app.state.metrics.gauge("broken", "a gauge that raises", lambda: 1 / 0)
        answer = httpx.get(f"{address.root}/metrics")
        assert answer.status_code == 500 and "the server's log tells more" in answer.json()["error"]["message"]


def test_a_method_that_draws_nothing_refuses_what_is_about_drawing():
    with served(opened("method=beam", "method.num_beams=2")) as address:
        plain = httpx.post(f"{address.url}/completions", json={"prompt": PROMPT, "max_tokens": 8}).json()["choices"]
        for given in ({"temperature": 0.7}, {"seed": 3}, {"top_p": 0.5}, {"top_k": 4}):
            [(field, value)] = given.items()
            answer = httpx.post(f"{address.url}/completions", json={"prompt": PROMPT, "max_tokens": 8, **given})
            message = f"method=beam draws no tokens, so {field}={value} has no meaning here; leave it out, or send temperature=0."
            assert answer.status_code == 400 and answer.json()["error"]["message"] == message
        for given in ({"temperature": 0}, {"temperature": 0, "seed": 3, "top_p": 0.5}, {"top_p": 1, "top_k": -1}):
            answer = httpx.post(f"{address.url}/completions", json={"prompt": PROMPT, "max_tokens": 8, **given})
            assert answer.status_code == 200 and answer.json()["choices"] == plain
        answer = httpx.post(f"{address.root}/predict", json={"prompt": PROMPT})
        assert answer.status_code == 400 and "/predict draws its text" in answer.json()["error"]


def free_within(place, seconds=1.0):
    """Whether the decoder is idle by then."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if place.app.state.worker.running is None and not place.app.state.worker.waiting:
            return True
        time.sleep(0.005)
    return False


def test_a_client_that_leaves_frees_the_decoder_within_a_second(client, place):
    stream = client.completions.create(model="tiny", prompt=PROMPT, stream=True, **LONG)
    for _ in range(3):
        next(stream)
    assert place.app.state.worker.running is not None
    stream.close()
    assert free_within(place)
    with pytest.raises(openai.APITimeoutError):  # not streaming, and killed by its own impatience
        client.completions.create(model="tiny", prompt=PROMPT, timeout=0.2, **LONG)
    assert free_within(place)


def test_a_client_that_leaves_while_it_waits_is_forgotten(client, place):
    first = client.completions.create(model="tiny", prompt=PROMPT, stream=True, **LONG)
    next(first)
    with pytest.raises(openai.APITimeoutError):
        client.completions.create(model="tiny", prompt=PROMPT, stream=True, timeout=0.2)
    time.sleep(0.1)
    assert place.app.state.worker.waiting == 0 and place.app.state.worker.running is not None
    first.close()
    assert free_within(place)


def test_more_than_may_wait_are_refused_and_stopping_refuses_all(service):
    with served(service, queue=1) as address, openai.OpenAI(base_url=address.url, api_key="x", max_retries=0) as client, ThreadPoolExecutor(2) as pool:
        first = client.completions.create(model="tiny", prompt=PROMPT, stream=True, **LONG)
        next(first)
        second = pool.submit(client.completions.create, model="tiny", prompt=PROMPT)
        while not address.app.state.worker.waiting:
            time.sleep(0.005)
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(model="tiny", prompt=PROMPT)
        assert caught.value.response.headers["retry-after"] == "1"
        address.app.state.close()  # as a signal does
        with pytest.raises(openai.InternalServerError, match="stopping"):
            second.result()
        with pytest.raises(openai.InternalServerError, match="stopping"):
            client.completions.create(model="tiny", prompt=PROMPT)
        assert httpx.get(f"{address.root}/health").status_code == 503
        first.close()


def test_metrics_count_what_was_done(place, client):
    def values():
        lines = [line.rsplit(" ", 1) for line in httpx.get(f"{place.root}/metrics").text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    before = values()
    answer = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=20)
    after = values()
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown['specexp_requests_total{outcome="completed"}'] == 1 and grown["specexp_generation_tokens_total"] == 20
    assert grown["specexp_draft_tokens_total"] == answer.speculation["num_draft_tokens"]
    assert after["specexp_draft_acceptance_rate"] == after["specexp_accepted_tokens_total"] / after["specexp_draft_tokens_total"]
    assert after["specexp_mean_acceptance_length"] > 1 and after["specexp_tokens_per_second"] > 0
    assert after["specexp_queue_length"] == 0 and after["specexp_running"] == 0


@pytest.mark.parametrize("requests", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_many_requests_at_once_are_all_answered_and_none_mixed_up(client, service, place, requests):
    prompts = [f"def f{number}(x):\n" for number in range(min(8, requests // 2))]
    expected = {prompt: offline(service, service.engine.ids(prompt), 12)[0] for prompt in prompts}

    def ask(number):
        prompt = prompts[number % len(prompts)]
        if number % 2:
            chunks = client.completions.create(model="tiny", prompt=prompt, max_tokens=12, stream=True)
            return prompt, "".join(chunk.choices[0].text for chunk in chunks)
        return prompt, client.completions.create(model="tiny", prompt=prompt, max_tokens=12).choices[0].text

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(requests)))
    assert len(answers) == requests and all(text == expected[prompt] for prompt, text in answers)
    assert free_within(place)


@pytest.mark.slow
def test_memory_stays_flat(client):
    """Resident memory over 200 requests at concurrency 16, behind as many that warmed everything up."""
    def ask(number):
        return client.completions.create(model="tiny", prompt=f"def f{number % 50}(x):\n", max_tokens=12, temperature=number % 3, seed=number).choices[0].text

    sizes = []
    for _ in range(2):
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(ask, range(200)))
        sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
    assert sizes[-1] - sizes[0] < 30e6, sizes


def test_chat_templates_are_the_tokenizers_own_plain_or_a_files(service, tmp_path):
    own = service.engine.tokenizer
    file = tmp_path / "template.jinja"
    file.write_text("{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}")
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
    rendered = {name: Engine(Prompter(with_template(own, name)), ()).render(messages) for name in ("plain", str(file))}
    assert rendered == {"plain": service.engine.ids("one\n\ntwo"), str(file): service.engine.ids("system: \nuser: one\nuser: two\n")}
    with pytest.raises(UserError, match="chat_template=nowhere is no file"):
        with_template(own, "nowhere")
    with pytest.raises(UserError, match="the tokenizer has no chat template"):
        Engine(Prompter(SimpleNamespace(chat_template=None)), ()).render(messages)
    file.write_text("{{ raise_exception('no system here') }}")
    with pytest.raises(UserError, match="does not take these messages .no system here"):
        Engine(Prompter(with_template(own, str(file))), ()).render(messages)


def test_clients_take_turns():
    queue = FairQueue(5)
    for item in ("a1", "a2", "a3", "b1"):
        queue.put(item[0], item)
    queue.drop("a", "a2")
    queue.drop("c", "c1")
    queue.put("c", "c1")
    queue.put("c", "c2")
    with pytest.raises(Full):
        queue.put("d", "d1")
    assert [queue.take() for _ in range(5)] == ["a1", "b1", "c1", "a3", "c2"] and len(queue) == 0


@pytest.mark.parametrize(("settings", "words"), [
    ({"port": -1}, "server.port=-1 does not fit; give 0 or more"), ({"queue": 0}, "server.queue=0"), ({"body_bytes": 0}, "server.body_bytes=0"),
    ({"grace_seconds": -1}, "server.grace_seconds=-1"), ({"port": 65536}, "server.port=65536 is no port"),
])  # fmt: skip
def test_settings_that_mean_nothing_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        ServerSettings("m", **settings)


def test_a_port_in_use_is_told_in_a_sentence():
    with listening(ServerSettings("m", port=0)) as door, pytest.raises(UserError, match=r"server.port=\d+ \(Address already in use\); choose another port"):
        listening(ServerSettings("m", port=door.getsockname()[1]))


def test_an_open_server_is_announced_as_such(monkeypatch):
    monkeypatch.delenv("SPECEXP_API_KEY", raising=False)
    assert ServerSettings("m", host="0.0.0.0").is_open and not ServerSettings("m").is_open
    monkeypatch.setenv("SPECEXP_API_KEY", "k")
    assert not ServerSettings("m", host="0.0.0.0").is_open and "k" not in repr(ServerSettings("m")).replace("api_key_env", "")
