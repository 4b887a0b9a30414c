"""Streams of served engines, made by hand: chunks as such engines send them, replies that arrive by a clock of their own, and a server whose
replies are chosen by name."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from specexp.figures.record import Record
from specexp.figures.speed import summarise_speed
from specexp.peers import reply

DONE = b"data: [DONE]\n\n"


def event(content, escaped=True):
    return b"data: " + json.dumps(content, ensure_ascii=escaped).encode() + b"\n\n"


def text(piece, finish=None, **more):
    return {"choices": [{"index": 0, "text": piece, "finish_reason": finish}], **more}


def delta(finish=None, **channels):
    return {"choices": [{"index": 0, "delta": channels, "finish_reason": finish}]}


def usage(tokens, prompt=5, **more):
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": tokens, **more}}


def words(count, each=1, every=0.02, first=None):
    """(seconds, chunk) of a text of so many tokens, `each` in a chunk, made at a steady pace of a token in `every` seconds."""
    found = [(count_so_far * every, text("".join(f"w{n:02} " for n in range(count_so_far - each, count_so_far)))) for count_so_far in range(each, count + 1, each)]
    return [*found, (count * every, text("", "stop")), (count * every, usage(count))]


def read(monkeypatch, *arrivals):
    """The reply to (seconds, chunk or bytes) that arrive at these times."""
    now = [0.0]
    monkeypatch.setattr(reply, "perf_counter", lambda: now[0])

    def arriving():
        for seconds, chunk in arrivals:
            now[0] = seconds
            yield chunk if isinstance(chunk, bytes) else event(chunk)

    return reply.read_reply(httpx.Response(200, content=arriving()), 0.0, 0.0, 1)


def at_once(arrivals, seconds=None):
    """The same chunks, held up until the last of them and then sent on in one piece."""
    seconds = arrivals[-1][0] if seconds is None else seconds
    return [(seconds, b"".join(event(chunk) for _, chunk in arrivals))]


def compared(method, baseline):
    """The figures of two lists of replies to the same prompts."""
    pairs = enumerate(zip(method, baseline, strict=True))
    return summarise_speed([Record(str(n), 0, "p", (), {"method": m.record(), "baseline": b.record()}) for n, (m, b) in pairs])


MODES = {  # what the server writes, one part after another with a short pause between; bytes as they are
    "steady": lambda: [event(text(f"w{n} ")) for n in range(10)] + [event(text("", "stop")), event(usage(10)), DONE],
    "buffered": lambda: [b"".join(MODES["steady"]())],
    "one chunk": lambda: [event(text("".join(f"w{n} " for n in range(10)))) + event(text("", "stop")) + event(usage(10)) + DONE],
    "reasoning": lambda: [event(delta(reasoning_content=f"thought {n} ", content=None)) for n in range(6)]
    + [event(delta(content="answer")), event(delta("stop")), event(usage(7)), DONE],
    "only reasoning": lambda: [event(delta(reasoning="hm ")) for _ in range(5)] + [event(delta("length")), event(usage(5)), DONE],
    "raw unicode": lambda: [event(text("one\u2028two\u2029three\u0085four"), escaped=False), event(text("", "stop")), event(usage(9)), DONE],
    "vllm": lambda: [*MODES["steady"]()[:-2], event(usage(10) | {"metrics": {"speculative_decoding": {
        "num_spec_steps": 4, "num_draft_tokens": 12, "num_accepted_draft_tokens": 5, "acceptance_histogram": [1, 2, 0, 1], "num_spec_tokens": 3}}}), DONE],
    "sglang": lambda: [*MODES["steady"]()[:-2], event({"choices": [], "sglext": {"spec_tokens_details": {
        "spec_verify_ct": 4, "spec_num_correct_drafts": 5, "spec_num_proposed_drafts": 12, "spec_accept_length": 2.5}}}), event(usage(10)), DONE],
    "error in JSON": lambda: {"error": {"message": "the engine has died", "code": 500}},
    "no stream": lambda: {"choices": [{"text": "all of it", "finish_reason": "stop"}], "usage": {"prompt_tokens": 5, "completion_tokens": 3}},
}


@contextlib.contextmanager
def engine(mode):
    """The URL of a server that answers so; `engine.asked` are the bodies and headers of its requests."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            self.send({"object": "list", "data": [{"id": "m"}]})

        def send(self, content):
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            asked.append((json.loads(self.rfile.read(int(self.headers["content-length"]))), dict(self.headers)))
            parts = MODES[mode]()
            if isinstance(parts, dict):
                return self.send(parts)
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("connection", "close")
            self.end_headers()
            for part in parts:
                self.wfile.write(part)
                self.wfile.flush()
                time.sleep(0.005)
            self.close_connection = True
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield Place(f"http://127.0.0.1:{server.server_port}/v1", asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class Place:
    def __init__(self, url, asked):
        self.url, self.asked = url, asked
