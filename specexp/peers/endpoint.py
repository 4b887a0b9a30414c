"""method=endpoint: text from any server that speaks OpenAI's API (vLLM, SGLang, TGI, `specexp serve`), read as a stream and timed here.

A server shows no ids, no rounds and no passes. Tokens are counted from the server's `usage`; times are those at which chunks of text
arrived here, the network's share included. The API key comes from the environment and goes into the request's header and nowhere else.
"""

from __future__ import annotations

import json
import logging
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from time import perf_counter
from typing import ClassVar

import httpx

from specexp.decoding.sampling import Sampling
from specexp.errors import UserError
from specexp.figures.record import Repeat, SideRecord

Prompt = str | Sequence[Mapping[str, str]]  # a text, or the messages of a conversation
APIS = {"completions": "/completions", "chat": "/chat/completions"}
ON_ERROR = ("stop", "count")
BUSY = (429, 503)  # only these are tried again
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds
CONNECT_SECONDS, CHECK_SECONDS = 10.0, 10.0


class Refused(Exception):
    """The server did not answer as asked. code: the HTTP status, or -1 where there was none (LLMPerf uses that number)."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code, self.message, self.url = code, " ".join(message.split())[:300], ""

    def told(self, where: str) -> UserError:
        """The error for the user, where one refused request ends the run. where: " to EXAMPLE"."""
        reason = self.message.rstrip(".")
        return UserError(
            f"{self.url} answered{where} with {self.code} ({reason}); method.on_error=count would go on without that request."
        )


@dataclass(frozen=True)
class Reply:
    """One answer. times: seconds since the request was sent at which text arrived, and last the end of the text. began: seconds of the
    epoch.

    completion_tokens, prompt_tokens: from `usage`. chunks: how many held text. speculation: what this project's own server reports, else
    None.
    """

    text: str
    finish: str
    times: tuple[float, ...]
    chunks: int
    prompt_tokens: int
    completion_tokens: int
    attempts: int
    began: float
    speculation: dict | None = None

    @property
    def ttft_seconds(self) -> float:
        return self.times[0]

    @property
    def decode_seconds(self) -> float:
        """Seconds from the first text to the end; with `ttft_seconds` they add up to the latency of the whole request."""
        return self.times[-1] - self.times[0]

    @property
    def content(self) -> str:
        """What two repeats are compared by."""
        return self.text

    def repeat(self) -> Repeat:
        """The times. The first text counts as one token, as wherever only chunks are seen: TPOT = (e2e - TTFT) / (n - 1)."""
        return Repeat(self.completion_tokens, 1, max(self.chunks - 1, 0), 0, self.ttft_seconds, self.decode_seconds)

    def record(self) -> SideRecord:
        """The record of this side. What a server does not report (ids, rounds, passes, memory, likelihood) stays unknown and is never
        guessed.
        """
        return SideRecord(
            repeats=(self.repeat(),),
            text=self.text,
            finish=self.finish,
            num_tokens=self.completion_tokens,
            prompt_tokens=self.prompt_tokens,
            chunks=self.chunks,
            began=self.began,
            attempts=self.attempts,
            speculation=self.speculation,
        )


@dataclass
class Endpoint:
    """url: the address up to and with /v1. model: None for the first that the server lists. api: completions, or chat (messages, or a
    prompt as one user message).

    concurrency: how many requests are under way at most. on_error: "stop" the run, or "count" the failed request and go on. api_key_env:
    the environment variable that holds the key, if any. retries: how often a request refused as too many (429, 503) is sent again, after
    growing waits.
    """

    url: str
    model: str | None = None
    api: str = "completions"
    concurrency: int = 1
    on_error: str = "stop"
    api_key_env: str = "OPENAI_API_KEY"
    timeout_seconds: int = 600
    retries: int = 6
    follows_sampling: ClassVar[bool] = True
    _served: str | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            place = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise UserError(f"url={self.url} is no URL ({error}); give http://HOST:PORT/v1.") from error
        if place.scheme not in ("http", "https") or not place.host:
            raise UserError(f"url={self.url} is no address of a server; give http://HOST:PORT/v1.")
        if place.userinfo or place.query:
            raise UserError(f"the URL of {place.host} holds more than an address, and is written down; put a key into {self.api_key_env}.")
        for name, options in (("api", APIS), ("on_error", ON_ERROR)):
            if getattr(self, name) not in options:
                raise UserError(f"method.{name}={getattr(self, name)} does not exist; choose one of {', '.join(options)}.")
        for name, least in (("concurrency", 1), ("timeout_seconds", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise UserError(f"method.{name}={getattr(self, name)} does not fit; give {least} or more.")

    def check(self, sampling: Sampling) -> None:
        """Accepts every sampling rule here; the server itself says which ones it takes."""

    @property
    def served(self) -> str:
        """The name of the served model."""
        return self.model or self._served or ""

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def connect(self) -> None:
        """Finds the model. Raises UserError, within seconds, where nothing answers, the key is refused, or nothing of that name is served.
        """
        try:
            answer = self._client.get("/models", timeout=CHECK_SECONDS)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise UserError(f"nothing answers at {self.url} ({reason}); start a server there, or give another URL.") from error
        if answer.status_code in (401, 403):
            raise UserError(f"{self.url} refuses the API key (status {answer.status_code}); put the right one into {self.api_key_env}.")
        names = _names(answer)
        if self.model is None and not names:
            raise UserError(f"{self.url} lists no model (status {answer.status_code}); is /v1 missing, or set method.model=NAME.")
        if self.model is not None and names and self.model not in names:
            raise UserError(f"{self.url} serves {', '.join(names)} and not {self.model}; set method.model to one of them.")
        self._served = self.model or names[0]

    def complete(
        self, prompt: Prompt, max_new_tokens: int, stop: tuple[str, ...], ignore_eos: bool, sampling: Sampling, seed: int
    ) -> Reply:
        """Sends one request, again while the server is too busy. Raises Refused."""
        try:
            return self._completed(self._body(prompt, max_new_tokens, stop, ignore_eos, sampling, seed))
        except Refused as error:
            error.url = self.url
            raise

    def _completed(self, body: dict) -> Reply:
        for attempt in count():
            began, sent = time.time(), perf_counter()
            try:
                with self._client.stream("POST", APIS[self.api], json=body) as answer:
                    if answer.status_code in BUSY and attempt < self.retries:
                        wait = _wait(answer, attempt)
                    elif answer.status_code != 200:
                        raise Refused(answer.status_code, _message(answer))
                    else:
                        return _read(answer, sent, began, attempt + 1)
            except httpx.HTTPError as error:
                raise Refused(-1, f"{type(error).__name__}: {error}") from error
            time.sleep(wait)

    def _body(self, prompt: Prompt, max_new_tokens: int, stop: tuple[str, ...], ignore_eos: bool, sampling: Sampling, seed: int) -> dict:
        """The body of a request. Values that change nothing are sent too, since servers have different defaults."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        content = {"prompt": prompt} if self.api == "completions" else {"messages": messages}
        rule = {"temperature": sampling.temperature}
        if not sampling.is_greedy:
            rule |= {"top_p": sampling.top_p, "top_k": sampling.top_k, "seed": seed}
        options = {"stop": list(stop) or None, "ignore_eos": ignore_eos or None}
        streaming = {"stream": True, "stream_options": {"include_usage": True}}
        body = {"model": self.served, **content, "max_tokens": max_new_tokens, **rule, **options, **streaming}
        return {key: value for key, value in body.items() if value is not None}

    @cached_property
    def _client(self) -> httpx.Client:
        logging.getLogger("httpx").setLevel(logging.WARNING)  # otherwise it logs a line for every request
        key = os.environ.get(self.api_key_env)
        limits = httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
        timeout = httpx.Timeout(self.timeout_seconds, connect=CONNECT_SECONDS)
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"} if key else {}, limits=limits, timeout=timeout)


def _names(answer: httpx.Response) -> list[str]:
    try:
        return [str(model["id"]) for model in answer.json()["data"]]
    except (ValueError, KeyError, TypeError):
        return []


def _wait(answer: httpx.Response, attempt: int) -> float:
    """Seconds to wait: what the server asks for, or twice as long each time, spread at random so that clients do not return together."""
    asked = answer.headers.get("retry-after", "")
    longest = min(LONGEST_WAIT, float(asked) if asked.isdigit() else FIRST_WAIT * 2**attempt)
    return longest * random.uniform(0.5, 1.0) if not asked.isdigit() else longest


def _message(answer: httpx.Response) -> str:
    text = answer.read().decode(errors="replace")
    try:
        told = json.loads(text)
        return _error_text(told.get("error", told))
    except (ValueError, AttributeError):
        return text


def _error_text(error: object) -> str:
    """The message of an error: OpenAI's servers send an object with a message, others the message alone."""
    return str(error.get("message", error) if isinstance(error, dict) else error)


def _code(error: object) -> int:
    """The code of an error inside a stream, whose HTTP status was sent before; -1 where it has no number."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if type(code) is int else -1


def _read(answer: httpx.Response, sent: float, began: float, attempts: int) -> Reply:
    """Reads the stream to its end."""
    texts: list[str] = []
    times: list[float] = []
    finish, usage, speculation, end = "", None, None, 0.0
    for chunk in _chunks(answer):
        now = perf_counter() - sent
        if error := chunk.get("error"):
            raise Refused(_code(error), _error_text(error))
        usage, speculation = chunk.get("usage") or usage, chunk.get("speculation") or speculation
        for choice in chunk.get("choices") or ():
            end = now
            finish = choice.get("finish_reason") or finish
            if text := choice.get("text") or (choice.get("delta") or {}).get("content") or "":
                texts.append(text)
                times.append(now)
    if not finish:
        raise Refused(-1, "the stream ended before the text did")
    if usage is None or not {"prompt_tokens", "completion_tokens"} <= set(usage):
        raise Refused(-1, "the server sends no usage, from which tokens are counted")
    ends = (*times, max(end, times[-1])) if times else (end, end)
    return Reply("".join(texts), finish, ends, len(times), usage["prompt_tokens"], usage["completion_tokens"], attempts, began, speculation)


def _chunks(answer: httpx.Response) -> Iterator[dict]:
    """The objects of server-sent events."""
    for line in answer.iter_lines():
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data and data != "[DONE]":
            try:
                yield json.loads(data)
            except ValueError as error:
                raise Refused(-1, f"a chunk is not JSON: {data[:80]}") from error
