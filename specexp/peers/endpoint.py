"""method=endpoint: text from any server that speaks OpenAI's API (vLLM, SGLang, TGI, llama.cpp, `specexp serve`), read as a stream and
timed here.

A server shows no ids, no rounds and no passes. Tokens are counted from the server's `usage`; times are those at which chunks of text
arrived here, the network's share included. This module knows what is asked and when it is asked again; how a stream becomes a text and its
times is told in reply.py.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from time import perf_counter
from typing import ClassVar

import httpx

from specexp.decoding.sampling import Sampling
from specexp.errors import UserError
from specexp.peers.connection import Refused, client_of, error_in, error_words, key_in, one_line, proxy_for
from specexp.peers.reply import Reply, read_reply

Prompt = str | Sequence[Mapping[str, str]]  # a text, or the messages of a conversation
APIS = {"completions": "/completions", "chat": "/chat/completions"}
ON_ERROR = ("stop", "count")
JSON = {"Content-Type": "application/json"}
BUSY = (429, 503)  # only these are tried again
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds
CHECK_SECONDS = 10.0
MAX_TOKENS = ("max_tokens", "max_completion_tokens")  # what servers call the longest text
LEFT_OUT = ("temperature", "top_p", "top_k", "seed", "stop", "ignore_eos", "stream_options")  # what a request can do without
SET_ELSEWHERE = {  # fields of a request, and the setting that decides them
    **{"model": "method.model", "prompt": "the data set", "messages": "the data set", "n": "samples", "stream": "this method"},
    **{name: f"sampling.{name}" for name in ("temperature", "top_p", "top_k")},
    **{"seed": "seed", "stop": "the data set", "ignore_eos": "ignore_eos", "echo": "this method", "best_of": "samples"},
    **dict.fromkeys(MAX_TOKENS, "max_new_tokens"),
}
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass
class Endpoint:
    """url: the address up to and with /v1. model: None for the first that the server lists. api: completions, or chat (messages, or a
    prompt as one user message).

    concurrency: how many requests are under way at most. on_error: "stop" the run, or "count" the failed request and go on. api_key_env:
    the environment variable that holds the key, if any. retries: how often a request refused as too many (429, 503) is sent again, after
    growing waits. max_tokens_field: what the server calls the longest text. body: further fields of every request. omit: fields that are
    left out, as the server does not know them.
    """

    url: str
    model: str | None = None
    api: str = "completions"
    concurrency: int = 1
    on_error: str = "stop"
    api_key_env: str = "OPENAI_API_KEY"
    timeout_seconds: int = 600
    retries: int = 6
    max_tokens_field: str = "max_tokens"
    body: Mapping[str, object] | None = None
    omit: Sequence[str] = ()
    follows_sampling: ClassVar[bool] = True
    _served: str | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not VARIABLE.fullmatch(str(self.api_key_env)):  # its value is not quoted, as it may be the key itself
            raise UserError("method.api_key_env is no name of an environment variable; put the key into one, and give its name here.")
        shown, place = f"url={self.url}" if "@" not in self.url else "the url, which is not shown because of its password,", None
        try:
            place = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            if "@" not in self.url:
                raise UserError(f"{shown} is no URL ({error}); give http://HOST:PORT/v1.") from error
        if place is None or place.scheme not in ("http", "https") or not place.host:
            raise UserError(f"{shown} is no address of a server; give http://HOST:PORT/v1.")
        if place.userinfo or place.query:
            raise UserError(f"the URL of {place.host} holds more than an address, and is written down; put a key into {self.api_key_env}.")
        for name, options in (("api", APIS), ("on_error", ON_ERROR), ("max_tokens_field", MAX_TOKENS)):
            if getattr(self, name) not in options:
                raise UserError(f"method.{name}={getattr(self, name)} does not exist; choose one of {', '.join(options)}.")
        for name, least in (("concurrency", 1), ("timeout_seconds", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise UserError(f"method.{name}={getattr(self, name)} does not fit; give {least} or more.")
        self._check_fields()
        key_in(self.api_key_env)
        proxy_for(place)

    def _check_fields(self) -> None:
        further = self.body = {} if self.body is None else _plain(self.body)
        try:
            json.dumps(further, allow_nan=False)
            fits = isinstance(further, Mapping) and isinstance(further.get("stream_options", {}), Mapping)
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise UserError(f"method.body={self.body} are no fields of a JSON object; give them as method.body={{NAME: VALUE}}.")
        for name in further:
            if name in SET_ELSEWHERE:
                raise UserError(f"method.body.{name} is decided by {SET_ELSEWHERE[name]}; leave it out.")
        if unknown := [name for name in self.omit if name not in LEFT_OUT or name in further]:
            raise UserError(f"method.omit={unknown[0]} cannot be left out; choose of {', '.join(LEFT_OUT)}, without those of body.")

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
            raise self._no_answer(error) from error
        if answer.status_code in (401, 403):
            raise UserError(f"{self.url} refuses the API key (status {answer.status_code}); put the right one into {self.api_key_env}.")
        names = _names(answer)
        if self.model is None and not names:
            raise UserError(
                f"{self.url} lists no model (status {answer.status_code}{self._through}); is /v1 missing, or set method.model=NAME."
            )
        if self.model is not None and names and self.model not in names:
            raise UserError(f"{self.url} serves {', '.join(names)} and not {self.model}; set method.model to one of them.")
        self._served = self.model or names[0]

    def _no_answer(self, error: httpx.HTTPError) -> UserError:
        reason, proxy = one_line(str(error)) or type(error).__name__, proxy_for(httpx.URL(self.url))
        if proxy is not None and isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)):
            return UserError(
                f"the proxy {proxy.place}, which {proxy.variable} names, does not take requests to {self.url} ({reason}); start it, or put "
                f"{httpx.URL(self.url).host} into NO_PROXY to ask the server directly."
            )
        return UserError(f"nothing answers at {self.url} ({reason}{self._through}); start a server there, or give another URL.")

    @property
    def _through(self) -> str:
        """Words for a message, where a proxy stands between."""
        proxy = proxy_for(httpx.URL(self.url))
        return "" if proxy is None else f", through the proxy {proxy.place} that {proxy.variable} names"

    def complete(
        self, prompt: Prompt, max_new_tokens: int, stop: tuple[str, ...], ignore_eos: bool, sampling: Sampling, seed: int
    ) -> Reply:
        """Sends one request, again while the server is too busy. Raises Refused."""
        try:
            return self._completed(self._request(prompt, max_new_tokens, stop, ignore_eos, sampling, seed))
        except Refused as error:
            key = key_in(self.api_key_env)
            told = error.without(key, f"(the key in {self.api_key_env})") if key else error  # a server may quote what it was sent
            told.url = self.url
            raise told from error.__cause__

    def _completed(self, request: bytes) -> Reply:
        for attempt in count():
            began, sent = time.time(), perf_counter()
            try:
                with self._client.stream("POST", APIS[self.api], content=request, headers=JSON) as answer:
                    if answer.status_code in BUSY and attempt < self.retries:
                        wait = _wait(answer, attempt)
                    elif answer.status_code != 200:
                        raise Refused(answer.status_code, _refusal(answer))
                    else:
                        return read_reply(answer, sent, began, attempt + 1)
            except httpx.HTTPError as error:
                raise Refused(-1, f"{type(error).__name__}: {error}{self._through}") from error
            time.sleep(wait)

    def _request(
        self, prompt: Prompt, max_new_tokens: int, stop: tuple[str, ...], ignore_eos: bool, sampling: Sampling, seed: int
    ) -> bytes:
        """The body of a request. Values that change nothing are sent too, since servers have different defaults."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        content = {"prompt": prompt} if self.api == "completions" else {"messages": messages}
        rule = {"temperature": sampling.temperature}
        if not sampling.is_greedy:
            rule |= {"top_p": sampling.top_p, "top_k": sampling.top_k, "seed": seed}
        options = {"stop": list(stop) or None, "ignore_eos": ignore_eos or None}
        further = dict(self.body)
        asked = further.pop("stream_options", None)
        streaming = {"stream": True, "stream_options": {"include_usage": True} | (asked or {})}
        usual = {"model": self.served, **content, self.max_tokens_field: max_new_tokens, **rule, **options, **streaming}
        sent = {key: value for key, value in usual.items() if value is not None and key not in self.omit}
        return json.dumps(sent | further).encode()  # escaped, since a prompt may hold half of a character

    @cached_property
    def _client(self) -> httpx.Client:
        return client_of(self.url, self.api_key_env, self.concurrency, self.timeout_seconds)


def _plain(value: object) -> object:
    """With plain dictionaries and lists in the place of a configuration's, which JSON does not know."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def _names(answer: httpx.Response) -> list[str]:
    try:
        return [str(model["id"]) for model in answer.json()["data"]]
    except (ValueError, KeyError, TypeError):
        return []


def _wait(answer: httpx.Response, attempt: int) -> float:
    """Seconds to wait: what the server asks for, or twice as long each time, spread at random so that clients do not return together."""
    asked = answer.headers.get("retry-after", "")
    longest = min(LONGEST_WAIT, float(asked) if asked.isdecimal() else FIRST_WAIT * 2**attempt)
    return longest * random.uniform(0.5, 1.0) if not asked.isdecimal() else longest


def _refusal(answer: httpx.Response) -> str:
    """The server's own words for a status that is no success."""
    text = answer.read().decode("utf-8", "replace")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, (dict, list)):
        return error_words(error_in(content, always=True) or content)
    where = answer.headers.get("location")
    return text.strip() or answer.reason_phrase + (f", to {where}" if where else "")
