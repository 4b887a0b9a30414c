"""One answer of a served engine: every channel is clocked and the answer is scored, counts are whole numbers, and what is no finished text is
refused with the server's own words."""

import json
from types import SimpleNamespace

import httpx
import pytest
from streams import DONE, delta, event, read, text, usage, words

from specexp.experiment.sides import ServedTexts
from specexp.figures.record import Record
from specexp.figures.served import served_figures, served_notes
from specexp.figures.speed import equal_texts
from specexp.peers.connection import Refused
from specexp.peers.reply import read_reply

END = (delta("stop"), usage(24))


def told(*chunks, kind="text/event-stream"):
    """The reply to a body of these chunks, or bytes, that are there at once."""
    body = b"".join(chunk if isinstance(chunk, bytes) else event(chunk) for chunk in chunks)
    return read_reply(httpx.Response(200, content=body, headers={"content-type": kind} if kind else {}), 0.0, 0.0, 1)


@pytest.mark.parametrize("thought", [
    lambda n: {"reasoning_content": n, "content": None}, lambda n: {"reasoning": n}, lambda n: {"reasoning": n, "reasoning_content": n, "content": ""},
    lambda n: {"thinking": n}, lambda n: {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": n}]}]},
    lambda n: {"reasoning": n, "reasoning_details": [{"type": "reasoning.text", "text": n}]},
])  # fmt: skip
def test_reasoning_is_clocked_and_not_scored(monkeypatch, thought):
    """48 tokens a second, the first after 20 ms, and not 376 after 442."""
    thoughts = [(0.02 * n, delta(**thought(f"thought{n:02} "))) for n in range(1, 21)]
    answer = [(0.02 * n, delta(content=f"answer{n} ")) for n in range(21, 25)]
    reply = read(monkeypatch, *thoughts, *answer, (0.48, delta("stop")), (0.48, usage(24)))
    assert reply.text == "answer21 answer22 answer23 answer24 " and reply.reasoning.startswith("thought01 thought02 ") and reply.chunks == 24
    assert reply.ttft_seconds == 0.02 and reply.first_tokens == 1 and reply.decode_seconds / 23 == pytest.approx(0.02)
    read_text = ServedTexts(SimpleNamespace(stop_strings=(), score=lambda example, text: {"seen": text})).read(None, "p", reply)
    assert read_text["score"] == {"seen": reply.text} and reply.record().reasoning == reply.reasoning


@pytest.mark.parametrize("channels", [
    {"tool_calls": [{"index": 0, "id": "x", "function": {"name": "f", "arguments": ""}}]}, {"function_call": {"arguments": "{"}}, {"refusal": "no"},
])  # fmt: skip
def test_what_else_a_model_writes_is_clocked_too(monkeypatch, channels):
    reply = read(monkeypatch, (0.1, delta(role="assistant", content="")), (0.2, delta(**channels)), (0.3, delta(content="a")), (0.4, delta("stop")), (0.4, usage(2)))
    assert reply.ttft_seconds == 0.2 and reply.chunks == 2 and reply.text == "a" and not reply.reasoning


def test_what_is_no_text_is_not_clocked(monkeypatch):
    silent = [{}, {"role": "assistant"}, {"content": ""}, {"content": None, "tool_calls": []}, {"provider_specific_fields": {"x": 1}}, {"type": "text", "id": "a1"}]
    reply = read(monkeypatch, *[(0.1, delta(**one)) for one in silent], (0.2, delta(content="a")), (0.4, delta("stop")), (0.4, usage(1)))
    assert reply.ttft_seconds == 0.2 and reply.chunks == 1


def test_a_text_of_reasoning_alone_is_told_and_equals_no_other():
    one, other = (told(delta(reasoning=f"hm {n}"), delta("length"), usage(9)).record() for n in range(2))
    records = [Record("a", 0, "p", (), {"method": one, "baseline": other})]
    found = served_figures(records) | {"num_samples": 1}
    assert found["texts_without_answer"] == found["baseline_texts_without_answer"] == 1
    assert "1 of 1 texts of the baseline hold reasoning and no answer" in " ".join(served_notes(found))
    assert equal_texts([one], [other]) == 0 and equal_texts([one], [one]) == 1


def test_characters_that_lines_of_text_are_split_at_are_data():
    odd = "one\u2028two\u2029three\u0085four\x1cfive\vsix\fseven"
    body = event(text(odd), escaped=False) + event(text("", "stop")) + event(usage(9)) + DONE
    for end in (b"\n", b"\r\n", b"\r"):
        assert told(body.replace(b"\n", end)).text == odd
    assert told(body.removesuffix(b"\n")).text == odd and told(body.replace(DONE, b"")).text == odd and told(body, kind="text/plain").text == odd
    assert told(*(event(text(odd), False), event(text("", "stop")), event(usage(9)))).text == odd
    assert told(event(text(odd), False).strip() + b"\n" + event(text("", "stop")).strip() + b"\n" + event(usage(9)).strip() + b"\n" + DONE).text == odd  # no empty lines


def test_a_character_in_two_halves_is_one_and_a_half_alone_is_marked():
    reply = told(b'data: {"choices": [{"text": "a\\ud83d"}]}\n\n', b'data: {"choices": [{"text": "\\ude00b\\ud83d", "finish_reason": "stop"}]}\n\n', usage(3))
    assert reply.text == "a😀b\ufffd" and json.dumps(reply.text, ensure_ascii=False).encode()


@pytest.mark.parametrize("odd", [
    1, None, [], "a", True, {}, {"choices": None}, {"choices": 1}, {"choices": {}}, {"choices": [None, 1, []]}, {"choices": [{}]},
    {"choices": [{"delta": None, "text": None, "finish_reason": None}]}, {"choices": [{"delta": [], "text": 3}]}, {"usage": None}, {"usage": {}}, {"usage": []},
    {"usage": {"prompt_tokens": 5, "completion_tokens": None}}, {"choices": [], "prompt_filter_results": []}, {"error": None}, {"error": ""}, {"metrics": 3},
    {"choices": [{"delta": {"content": {"a": 1}, "reasoning": 3}}]}, {"usage": {"prompt_tokens": 5, "completion_tokens": 8, "completion_tokens_details": None}},
])  # fmt: skip
def test_chunks_of_odd_shapes_change_nothing(odd):
    reply = told(odd, text("one "), odd, text("two", "stop"), usage(8), odd, DONE)
    assert reply.text.startswith("one ") and reply.text.endswith("two") and reply.completion_tokens == 8 and reply.finish == "stop"


@pytest.mark.parametrize("counts", [
    {"prompt_tokens": 5, "completion_tokens": None}, {"prompt_tokens": None, "completion_tokens": 8}, {"prompt_tokens": 5, "completion_tokens": "8"},
    {"prompt_tokens": 5, "completion_tokens": -1}, {"prompt_tokens": 5, "completion_tokens": 1.5}, {"prompt_tokens": True, "completion_tokens": 8}, {"total_tokens": 3},
])  # fmt: skip
def test_tokens_that_are_not_counted_are_told(counts):
    with pytest.raises(Refused, match="sends no usage with whole numbers of prompt_tokens and completion_tokens .*, from which tokens are counted"):
        told(text("one", "stop"), {"choices": [], "usage": counts}, DONE)
    assert told(text("one", "stop"), usage(8.0), {"choices": [], "usage": counts}).completion_tokens == 8  # an earlier one did
    with pytest.raises(Refused, match="counts 0 completion_tokens for a text of 1 chunks"):
        told(text("one", "stop"), usage(0))
    assert told(text("", "stop"), usage(0)).completion_tokens == 0


@pytest.mark.parametrize(("chunks", "code", "words"), [
    ((text("one"), usage(8), DONE), -1, r"sent \[DONE\] without a finish_reason, after 1 chunks of text"),
    ((text("one"), usage(8)), -1, "the stream ended before the text did, after 1 chunks"),
    ((text("one"), b'event: error\ndata: {"message":"CUDA out of memory"}\n\n'), -1, "CUDA out of memory"),
    ((text("one"), b"event: error\ndata: out of memory\n\n"), -1, "out of memory"),
    ((text("one"), b'event: error\ndata: {"error": {"message": "lost", "code": 507}}\n\n'), 507, "lost"),
    ((text("one"), b'event: error\ndata: "gone"\n\n'), -1, "gone"), ((b"event: error\ndata: {}\n\n",), -1, "{}"),
    (({"error": "overloaded"},), -1, "overloaded"), (({"error": {"msg": "broken"}},), -1, "broken"), (({"error": True},), -1, "True"),
    (({"object": "error", "message": "too long", "code": 400},), 400, "too long"), (({"error": {"detail": [{"loc": ["body", "n"], "msg": "too many"}]}},), -1, "body.n: too many"),
    (({"choices": [{"text": "a", "error": {"message": "provider is down", "code": 502}}]},), 502, "provider is down"),
    ((text("one", "abort"), usage(3)), -1, "broke the text off with finish_reason=abort, after 1 chunks"), ((delta("error"), usage(3)), -1, "finish_reason=error"),
    ((b"data: {oops\n\n",), -1, "a chunk is not JSON: {oops"), ((b"data: " + b"[" * 5000 + b"\n\n",), -1, "a chunk is not JSON"),
    ((b'{"error": {"message": "the engine has died", "code": 500}}',), 500, "the engine has died"), ((b'{"error": "overloaded"}',), -1, "overloaded"),
    ((b'{"object": "error", "message": "no such model", "code": 404}',), 404, "no such model"),
    ((b'{\n "choices": [{"text": "all of it"}]\n}',), -1, r"is no stream \(text/event-stream\), so nothing can be timed; it begins: . .choices.: ..*all of it"),
    ((b"<html>Log in first</html>",), -1, "is no stream .*: <html>Log in first"), ((b"",), -1, "the reply is empty"), ((b": ping\n\n",), -1, "is no stream"),
])  # fmt: skip
def test_a_server_is_told_in_its_own_words(chunks, code, words):
    with pytest.raises(Refused, match=words) as caught:
        told(*chunks)
    assert caught.value.code == code and "\n" not in caught.value.message


def test_a_finish_reason_may_be_an_object():
    assert told({"choices": [{"text": "a", "finish_reason": {"type": "length", "length": 3}}]}, usage(3)).finish == "length"


def test_words_of_a_server_are_one_line_that_any_file_and_terminal_can_hold():
    refused = Refused(500, "a\n\tb \x1b[31mred\x07 \ud83d\ude00 \ud83d " + "x" * 400)
    assert refused.message.startswith("a b [31mred 😀 \ufffd xxx") and len(refused.message) == 300 and refused.message.encode()
    assert refused.without("red", "(it)").message.startswith("a b [31m(it) ")
    assert Refused(1, "x" * 290 + "secret" * 4).without("secret" * 4, "-").message == "x" * 290 + "-"  # and no part of it where words are cut


def test_a_steady_stream_is_timed_by_its_chunks(monkeypatch):
    reply = read(monkeypatch, *words(10))
    assert reply.times == pytest.approx([*(0.02 * n for n in range(1, 11)), 0.2]) and reply.repeat().rounds == 9 and reply.content == ("", reply.text)
