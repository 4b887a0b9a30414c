"""The way to a server: the key that goes into a request's header, the proxy that the environment names, and the client with both.

A key is read from the environment and goes into the header and nowhere else: what cannot stand in a header is refused by the variable's
name. Proxies are chosen as curl does (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, and NO_PROXY for what is asked directly). This module knows
nothing of the API.

The last part is what a server says where it does not answer as asked: its own words, on one line, with a code. Servers write errors in many
forms; what they have in common is read here.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from urllib.request import getproxies, proxy_bypass

import httpx

from specexp.errors import UserError

CONNECT_SECONDS = 10.0
SOCKS = ("socks5", "socks5h")
SCHEMES = ("http", "https", *SOCKS)  # of proxies that can be used


@dataclass(frozen=True)
class Proxy:
    """variable: the environment's name for it. place: its address without a password."""

    url: httpx.URL
    variable: str

    @property
    def place(self) -> str:
        host = f"[{self.url.host}]" if ":" in self.url.host else self.url.host
        return f"{self.url.scheme}://{host}" + (f":{self.url.port}" if self.url.port else "")


def key_in(variable: str) -> str | None:
    """The key that an environment variable holds, without blanks and line ends around it; None where it holds none. UserError, without the
    key, for one that no header can hold.
    """
    key = os.environ.get(variable, "").strip()
    if not all("!" <= letter <= "~" for letter in key):
        raise UserError(
            f"the key in {variable} holds a blank, a line end or a character beyond ASCII (a typographic dash, say), which no header of a "
            "request can hold; copy it once more."
        )
    return key or None


def proxy_for(url: httpx.URL) -> Proxy | None:
    """The proxy through which the environment has this address asked; None for none. Raises UserError for one that cannot be used."""
    if _asked_directly(url):
        return None
    found = getproxies()
    scheme = next((name for name in (url.scheme, "all") if found.get(name)), None)
    if scheme is None:
        return None
    names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")
    variable = next((name for name in names if os.environ.get(name)), "the system's settings")
    way_out = f"give {variable} another address, or put {url.host} into NO_PROXY to ask it directly"
    written = found[scheme] if "://" in found[scheme] else f"http://{found[scheme]}"
    try:
        place = httpx.URL(written)
    except httpx.InvalidURL:
        place = None
    if place is None or b"@" in place.raw_path:  # a password with a "/" in it makes one, and is not quoted
        raise UserError(f"the proxy that {variable} names has no address that can be read; {way_out}.")
    place = place.copy_with(scheme="socks5") if place.scheme == "socks" else place  # as desktops write it
    proxy = Proxy(place, variable)
    if place.scheme not in SCHEMES or not place.host:
        raise UserError(f"{variable}={proxy.place} is no proxy that can be used ({', '.join(SCHEMES)}); {way_out}.")
    if place.scheme in SOCKS and find_spec("socksio") is None:
        raise UserError(f"{variable}={proxy.place} takes the package socksio (pip install 'specexp[socks]' brings it); or {way_out}.")
    return proxy


def _asked_directly(url: httpx.URL) -> bool:
    """Whether NO_PROXY names the host, with its port or without it."""
    port = url.port or (443 if url.scheme == "https" else 80)
    return any(proxy_bypass(form) for form in (url.host, f"{url.host}:{port}"))


def client_of(url: str, variable: str, connections: int, timeout_seconds: float) -> httpx.Client:
    """Raises UserError for a key and for a proxy that cannot be used. Answers are asked for unpacked, as packing holds a stream up."""
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)  # otherwise there is a line for every request
    key, proxy = key_in(variable), proxy_for(httpx.URL(url))
    headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    timeout = httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS)
    transport = httpx.HTTPTransport(limits=limits, proxy=proxy and proxy.url)  # given, so that no other proxies are read and opened
    return httpx.Client(base_url=url, headers=headers, timeout=timeout, transport=transport)


LONGEST_TOLD = 300  # characters of a server's words that are quoted


class Refused(Exception):
    """The server did not answer as asked. code: the HTTP status, or -1 where there was none (LLMPerf uses that number)."""

    def __init__(self, code: int, words: str):
        self.code, self.words, self.url = code, one_line(words), ""
        super().__init__(self.message)

    @property
    def message(self) -> str:
        return self.words[:LONGEST_TOLD]

    def without(self, secret: str, name: str) -> Refused:
        """The same, with a name in the place of a secret."""
        return Refused(self.code, self.words.replace(secret, name))

    def told(self, where: str) -> UserError:
        """The error for the user, where one refused request ends the run. where: " to EXAMPLE"."""
        reason = self.message.rstrip(".")
        return UserError(
            f"{self.url} answered{where} with {self.code} ({reason}); method.on_error=count would go on without that request."
        )


def error_in(chunk: object, always: bool) -> object:
    """The error that a chunk, or a whole body, holds; None where it holds none. always: it is one, whatever it looks like."""
    if not isinstance(chunk, dict):
        return chunk if always else None
    if error := chunk.get("error"):
        return error
    return chunk if always or chunk.get("object") == "error" else None


def error_words(error: object) -> str:
    """The message of an error: OpenAI's servers send an object with a message, FastAPI's a `detail`, others the message alone."""
    if isinstance(error, dict):
        found = next((error[key] for key in ("message", "detail", "msg", "error") if error.get(key)), None)
        place = ".".join(map(str, error["loc"])) + ": " if isinstance(error.get("loc"), list) else ""  # the field that FastAPI refuses
        return json.dumps(error) if found is None else place + error_words(found)
    return "; ".join(map(error_words, error)) if isinstance(error, list) else str(error)


def error_code(error: object) -> int:
    """The code of an error inside a stream, whose HTTP status was sent before; -1 where it has no number."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if type(code) is int else -1


def one_line(text: str) -> str:
    """Without line ends, control characters, and halves of characters that no file can hold."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in whole([text])).split())


def whole(texts: Sequence[str]) -> str:
    """The texts joined. A character that a server sent in two halves is one again, and a half alone is the mark of what cannot be read."""
    return "".join(texts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
